"""A training on types against trainings that know of none, and against a plain loop over votes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotator_votes import write_votes
from forked import run_forked
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from iwpo_fast.config import OptimConfig, TrainConfig, TypesConfig
from iwpo_fast.data import read_rows
from iwpo_fast.files import load_record, load_tensors
from iwpo_fast.models import load_tokenizer
from iwpo_fast.models.tiny import tiny_model
from iwpo_fast.training import loop, train

NO_CLIP = OptimConfig(lr=1e-2, pairs_per_step=8, max_steps=4, epochs=4, max_grad_norm=None)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def are_equal(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def start_file(path: Path, shares: Sequence[object]) -> str:
    path.write_text(json.dumps({f"ann{who}": shares[who % 3] for who in range(6)}))
    return str(path)


def test_one_type_is_dpo_bitwise(config, tmp_path) -> None:
    train(config(types=TypesConfig(count=1)))
    train(config(types=None, output_dir=str(tmp_path / "plain")))
    assert are_equal(tmp_path / "run" / "round-1" / "model" / "type-0", tmp_path / "plain" / "model")


@pytest.mark.slow
def test_adapters_together_are_those_of_trainings_with_weights(config, tmp_path, votes) -> None:
    shares = [[0.25, 0.75], [0.875, 0.125], [0.5, 0.5]]
    types = TypesConfig(rounds=1, mixture_prompts=0, start=start_file(tmp_path / "start.json", shares))
    train(config(types=types, optim=NO_CLIP))
    for number in range(2):
        weight = [shares[who % 3][number] for who in range(6) for _ in range(6)]
        path = write_votes(tmp_path / "votes.jsonl", weight=weight)
        alone = config(types=None, optim=NO_CLIP, output_dir=str(tmp_path / f"alone-{number}"))
        train(replace(alone, data=replace(alone.data, path=str(path))))
        assert are_equal(tmp_path / "run" / "round-1" / "model" / f"type-{number}", Path(alone.output_dir) / "model")


@pytest.mark.slow
def test_names_of_types_mean_nothing(config, tmp_path) -> None:
    for name, shares in {"one": [0, 1, 1], "other": [1, 0, 0]}.items():
        start = start_file(tmp_path / f"{name}.json", shares)
        train(config(types=TypesConfig(rounds=2, mixture_prompts=0, start=start), output_dir=str(tmp_path / name)))
    one, other = (load_record(tmp_path / name / "annotators.json") for name in ("one", "other"))
    assert all(np.allclose(row, other["annotators"][who][::-1], atol=1e-6) for who, row in one["annotators"].items())
    first, second = (tmp_path / name / "round-1" / "model" for name in ("one", "other"))
    assert are_equal(first / "type-0", second / "type-1") and are_equal(first / "type-1", second / "type-0")
    assert not are_equal(first / "type-0", first / "type-1")


def plain_likelihoods(folder: Path, base: torch.nn.Module, rows, beta: float) -> list[list[float]]:
    """log σ(β D_k) of each row under each saved policy, by plain transformers, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "type-0")

    def logp(model, prompt: str, answer: str) -> float:
        ids = tokenizer(prompt + answer + tokenizer.eos_token, return_tensors="pt").input_ids
        begin = tokenizer(prompt, return_tensors="pt").input_ids.shape[1]
        with torch.no_grad():
            logps = model(ids).logits[0, :-1].double().log_softmax(-1)
        return float(logps.gather(1, ids[0, 1:, None])[begin - 1 :].sum())

    found = []
    for number in range(2):
        policy = AutoModelForCausalLM.from_pretrained(folder / f"type-{number}")
        margins = [
            beta
            * sum(
                sign * (logp(policy, prompt, answer) - logp(base, prompt, answer))
                for sign, answer in ((1, chosen), (-1, rejected))
            )
            for prompt, chosen, rejected in zip(rows.prompt, rows.chosen, rows.rejected, strict=True)
        ]
        found.append([-float(np.log1p(np.exp(-margin))) for margin in margins])
    return np.array(found).T.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("told", ["held_out", "trained"])
def test_votes_are_told_as_plain_transformers_would(config, tmp_path, told) -> None:
    settings = config(types=TypesConfig(rounds=1, mixture_prompts=0, votes=told))
    train(settings)
    rows, held_out = read_rows(settings.data)
    base = tiny_model(settings.model.tiny, load_tokenizer(settings.model, rows.texts()), settings.seed)
    scored = held_out if told == "held_out" else rows
    expected = np.zeros((6, 2))
    likelihoods = plain_likelihoods(tmp_path / "run" / "round-1" / "model", base, scored, 1.0)
    names = list(dict.fromkeys([*rows.annotators.names, *held_out.annotators.names]))
    for place, likelihood in zip(scored.annotators.of_row, likelihoods, strict=True):
        expected[names.index(scored.annotators.names[place])] += likelihood
    kept = load_tensors(tmp_path / "run" / "round-1" / "votes.safetensors")
    assert np.allclose(kept["log_likelihood"], expected[: len(kept["votes"])], atol=1e-3)
    assert kept["votes"].sum() == len(scored)


@pytest.mark.slow
def test_opposite_tastes_are_told_apart(config, tmp_path, votes) -> None:
    write_votes(votes, each=20)
    train(
        config(types=TypesConfig(rounds=3, mixture_prompts=0), optim=OptimConfig(lr=1e-2, pairs_per_step=8, epochs=8))
    )
    record = load_record(tmp_path / "run" / "annotators.json")
    kinds = {who: int(np.argmax(shares)) for who, shares in record["annotators"].items()}
    assert len({kinds["ann0"], kinds["ann1"]}) == 2
    assert all(kinds[f"ann{who}"] == kinds["ann0" if who % 3 == 0 else "ann1"] for who in range(6))
    assert all(abs(sum(shares) - 1) < 1e-9 for shares in record["annotators"].values())
    assert [set(of_round) for of_round in record["rounds"]] == [set(record["rounds"][0])] * 3


def train_until_killed(config: TrainConfig) -> None:
    """To the sixth step, the second of the second round."""
    step, calls = loop.train_step, []

    def killed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)

    loop.train_step = killed  # type: ignore[assignment]
    train(config)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bytes(config, tmp_path) -> None:
    types = TypesConfig(rounds=2, mixture_prompts=4, mixture_tokens=3)
    whole, part = (config(types=types, output_dir=str(tmp_path / name)) for name in ("whole", "part"))
    train(whole)
    assert run_forked(train_until_killed, part).exitcode == -signal.SIGKILL
    assert not (tmp_path / "part" / "round-2" / "summary.json").exists()
    train(part)
    for name in ("start.json", "annotators.json", "mixture/mixture.json", "mixture/type-1/model.safetensors"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_more_rounds_go_on_behind_those_that_are_done(config, tmp_path) -> None:
    train(config(types=TypesConfig(rounds=1, mixture_prompts=0)))
    before = (tmp_path / "run" / "round-1" / "summary.json").stat().st_mtime_ns
    train(config(types=TypesConfig(rounds=2, mixture_prompts=0)))
    assert (tmp_path / "run" / "round-1" / "summary.json").stat().st_mtime_ns == before
    assert len(load_record(tmp_path / "run" / "annotators.json")["rounds"]) == 2


@pytest.mark.slow
def test_damaged_votes_are_one_sentence(config, tmp_path) -> None:
    train(config())
    path = tmp_path / "run" / "round-1" / "votes.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(
        ValueError, match=r"votes\.safetensors is damaged or gone: delete .*round-1 to train that round"
    ):
        train(config())


def test_a_dry_run_plans_a_round_and_leaves_nothing(config, tmp_path, capsys) -> None:
    assert train(replace(config(), dry_run=True)) is None
    assert "6 annotators" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
