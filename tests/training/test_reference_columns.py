"""Reference log-probs that the data bring are compared with the model's before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_pairs import write_pairs

from iwpo_fast.cli import main
from iwpo_fast.config import DataConfig, ModelConfig, OptimConfig, TinyConfig, TrainConfig
from iwpo_fast.data import Pairs, Rows, read_rows, tokenise
from iwpo_fast.data.columns import REFERENCE
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.models.reference import with_reference
from iwpo_fast.training import reference_columns, train
from iwpo_fast.world import World

TINY = TinyConfig(vocab_size=300, hidden_size=32, layers=1, heads=2)


def config_of(path: Path, **parts: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "data": DataConfig(path=str(path), eval_fraction=0.0, cache_dir=str(path.parent / "cache")),
        "model": ModelConfig(tiny=TINY),
        "optim": OptimConfig(lr=1e-6, pairs_per_step=4, max_steps=1),
        "output_dir": str(path.parent / "run"),
        "device": "cpu",
    }
    return TrainConfig(**(settings | parts))


@pytest.fixture
def given(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Twenty rows with the log-probs of the very model, and where to write them."""
    path = write_pairs(tmp_path / "pairs.jsonl", rows=20)
    config = config_of(path)
    rows = read_rows(config.data)[0]
    tokenizer = load_tokenizer(config.model, rows.texts())
    world = World.start("cpu")
    policy = load_policy(config.model, tokenizer, world, seed=config.seed)
    pairs = tokenise(rows, tokenizer, config.data)[0]
    logps = with_reference(policy, pairs, world, tmp_path / "cache", tokens_per_batch=1024).ref_logps
    assert logps is not None
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record, (chosen, rejected) in zip(records, logps.tolist(), strict=True):
        record |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    return path, records


def write(path: Path, records: list[dict[str, Any]]) -> None:
    # A blank line in front, so that numbers of rows are those of the file.
    path.write_text("\n" + "".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.slow
def test_log_probs_of_the_very_model_agree_on_all_rows_and_are_trained_on(given, capsys) -> None:
    path, records = given
    write(path, records)
    summary = train(config_of(path))
    assert summary is not None
    said = capsys.readouterr().out
    assert "agree with the model to" in said and "nats a token on all 20 pairs" in said


@pytest.mark.slow
@pytest.mark.parametrize(("side", "error"), [("chosen", 40.0), ("rejected", -0.5), ("chosen", float("inf"))])
def test_a_row_of_another_text_is_named_by_its_line_wherever_it_stands(given, side, error) -> None:
    path, records = given
    records[13][f"ref_{side}_logps"] += error if np.isfinite(error) else 1e30
    write(path, records)
    with pytest.raises(ValueError, match=rf"^In pairs\.jsonl, row 15 has the ref_{side}_logps .*, and the model gives"):
        train(config_of(path))
    assert not (path.parent / "run" / "checkpoints").exists()


def test_in_half_precision_a_long_completion_may_differ_by_less_a_token_than_a_short_one() -> None:
    lengths, off = [4, 100], 0.06
    tokens = Ragged.from_rows([[7] * n for n in lengths])
    rows = Rows("x.jsonl", np.array([1, 2]), ["p"] * 2, ["a"] * 2, ["b"] * 2)
    own = -np.array([lengths, lengths], dtype=np.float64).T
    columns = {name: own[:, 0] * (1 + off) for name in REFERENCE}
    pairs = Pairs(tokens, tokens, tokens, np.ones(2), columns=columns, row=np.arange(2))
    with pytest.raises(ValueError, match=r"^In x\.jsonl, row 2 has the ref_chosen_logps"):
        reference_columns.refuse_stale(pairs, own, rows, torch.bfloat16)
    short = reference_columns.refuse_stale(pairs.take(np.array([0])), own[:1], rows, torch.bfloat16)
    assert short == pytest.approx(off)
    with pytest.raises(ValueError, match=r"row 1 \(the first of 2\)"):
        reference_columns.refuse_stale(pairs, own, rows, torch.float32)


@pytest.mark.slow
def test_columns_that_are_meant_to_differ_are_taken_as_they_are_and_the_run_says_so(given, capsys) -> None:
    path, records = given
    records[13]["ref_chosen_logps"] += 40.0
    write(path, records)
    assert train(config_of(path, self_test=False)) is not None
    said = capsys.readouterr().out
    assert "the reference log-probs of pairs.jsonl are taken as they are, because self_test is false" in said


@pytest.mark.slow
def test_held_out_rows_are_compared_too(given) -> None:
    path, records = given
    write(path, records)
    held_out = path.with_name("held_out.jsonl")
    records[2]["ref_rejected_logps"] += 1.0
    write(held_out, records)
    config = config_of(path)
    config.data.eval_path = str(held_out)
    with pytest.raises(ValueError, match=r"^In held_out\.jsonl, held out, row 4 has the ref_rejected_logps"):
        train(config)


@pytest.mark.slow
def test_of_many_pairs_some_are_drawn_and_the_run_says_how_many(given, capsys, monkeypatch) -> None:
    monkeypatch.setattr(reference_columns, "CHECKED", 15)
    path, records = given
    write(path, records)
    train(config_of(path))
    assert "on 15 of 20 pairs, drawn at random" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_refuses_stale_columns_in_one_sentence(given, capsys, monkeypatch) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    path, records = given
    monkeypatch.chdir(path.parent)
    for record in records[5:]:
        record["ref_chosen_logps"] += 3.0
    write(path, records)
    flags = ["--data.path", "pairs.jsonl", "--data.eval_fraction", "0", "--data.cache_dir", "cache", "--device", "cpu"]
    tiny = {"vocab_size": 300, "hidden_size": 32, "layers": 1, "heads": 2}
    flags += [word for name, value in tiny.items() for word in (f"--model.tiny.{name}", str(value))]
    assert main(["train", *flags, "--output_dir", "run"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("iwpo: error: In pairs.jsonl, row 7 (the first of 15) has the ref_chosen_logps")
