"""Rows of one completion and a label: what they train is the objective's own side alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed_runs import kill_during_training, run_killed
from ranks import run_on_ranks
from test_equivalence import logged
from toy_pairs import write_pairs

from iwpo_fast.config import CheckpointConfig, DataConfig, MixedConfig, ObjectiveConfig, OptimConfig, TrainConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.batch import flat_batch
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import Responses
from iwpo_fast.training import train
from iwpo_fast.training.held_out_margins import Margins, area_under_curve
from iwpo_fast.training.loss import PreferenceLoss, TokenScores

ABLE = ["kto", "bco", "bco_pair", "apo_zero"]
Make = Callable[..., TrainConfig]


def split(pairs_file: Path, path: Path, *, kinds: tuple[bool, ...] = (True, False)) -> Path:
    """The completions of pairs as rows of their own, those with these labels."""
    rows = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    singles = [
        {"prompt": row["prompt"], "completion": row["chosen" if label else "rejected"], "label": label}
        for row in rows
        for label in kinds
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in singles))
    return path


@pytest.fixture
def unpaired(config: Make, pairs_file: Path, tmp_path: Path) -> Make:
    """As `config`, on the same completions as rows of their own."""
    data = dataclasses.replace(config().data, path=str(split(pairs_file, tmp_path / "kto.jsonl")))

    def make(**parts: object) -> TrainConfig:
        return config(**({"data": data, "objective": ObjectiveConfig(name="kto")} | parts))

    return make


def some_pairs(seed: int, rows: int = 5) -> Pairs:
    rng = np.random.default_rng(seed)
    parts = [Ragged.from_rows([rng.integers(9, size=rng.integers(1, 6)) for _ in range(rows)]) for _ in range(3)]
    ref_logps = -rng.random((rows, 2)).astype(np.float32)
    return Pairs(*parts, weight=rng.random(rows), ref_logps=ref_logps)


def as_singles(pairs: Pairs) -> Pairs:
    """Every pair twice, once with each of its completions alone."""
    rows = np.repeat(np.arange(len(pairs)), 2)
    singles = pairs.take(rows).only(np.tile([[True, False], [False, True]], (len(pairs), 1)))
    assert singles.present is not None and pairs.ref_logps is not None
    return dataclasses.replace(singles, ref_logps=pairs.ref_logps[rows] * singles.present)


def loss_of(name: str, pairs: Pairs, logp_of: torch.Tensor, **settings: Any) -> torch.Tensor:
    """The loss of one step over all pairs; a token's log-prob is that of its id, which carries the gradient."""
    loss, rows = PreferenceLoss(ObjectiveConfig(name=name, **settings)), np.arange(len(pairs))
    batch = flat_batch(pairs, rows)
    tokens = TokenScores(logp_of[batch.labels])
    mixture = loss.mixture
    step = loss.step_pair(pairs, rows, loss.sequence_logps(tokens, batch))
    constants = mixture.constants(step, {}, None)
    return loss(tokens, batch, float(len(rows)), constants).loss


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", ABLE)
def test_the_halves_of_pairs_have_half_of_their_loss_and_gradient(name: str, smoothing: float) -> None:
    """Half, because the denominator counts rows."""
    pairs, found = some_pairs(0), []
    for some in (pairs, as_singles(pairs)):
        logp_of = torch.linspace(-0.1, -2.0, 9, dtype=torch.float64, requires_grad=True)
        loss_of(name, some, logp_of, label_smoothing=smoothing).backward()
        assert logp_of.grad is not None
        found.append(logp_of.grad)
        found.append(loss_of(name, some, logp_of.detach(), label_smoothing=smoothing))
    torch.testing.assert_close(found[2], found[0] / 2, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found[3], found[1] / 2, rtol=1e-12, atol=1e-14)
    assert found[0].abs().max() > 1e-3


def test_an_absent_completion_is_no_sequence() -> None:
    pairs = some_pairs(1)
    batch, singles = flat_batch(pairs, np.arange(5)), flat_batch(as_singles(pairs), np.arange(10))
    assert singles.present is not None and singles.present.sum() == 10
    assert len(singles.segments) == 21 and len(singles.cu_seqlens) == 11 == len(batch.cu_seqlens)
    for name in ("input_ids", "expand_index", "hidden_index", "labels", "cu_seqlens"):
        torch.testing.assert_close(getattr(singles, name), getattr(batch, name))
    assert as_singles(pairs).tokens.sum() == pairs.tokens.sum()
    responses = Responses.of(as_singles(pairs))
    assert (responses.completions.lengths[responses.to_run] > 0).all() and len(responses.to_run) == 10


@pytest.mark.slow
def test_no_number_of_an_absent_completion_is_counted(unpaired: Make, tmp_path: Path) -> None:
    settings = unpaired()
    train(settings)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if line.get("step") == 1 and "loss" in line)
    assert first["loss"] == pytest.approx(0.5, abs=1e-6)  # the policy is the reference
    assert first["logps/chosen"] < -1 and first["logps/rejected"] < -1
    last = lines[-1]
    assert "eval_rewards/accuracies" not in last and "rewards/accuracies" not in first
    assert last["eval_rewards/margins"] == pytest.approx(last["eval_rewards/chosen"] - last["eval_rewards/rejected"])
    assert last["eval_rewards/margins"] > 0
    assert last["eval_loss"] < 0.5
    assert 0 <= last["eval_rewards/auc"] <= 1 and "eval_rewards/auc" not in first


def test_the_area_is_the_share_of_couples_that_are_in_order_ties_as_half() -> None:
    desirable = np.array([True, False, True, False, False, True])
    rewards = np.array([2.0, 1.0, 1.0, -1.0, 3.0, 0.5])
    margins = Margins(torch.from_numpy(np.where(desirable, rewards, -rewards)), torch.ones(6, dtype=torch.float64))
    couples = [(a > b) + (a == b) / 2 for a in rewards[desirable] for b in rewards[~desirable]]
    present = np.stack([desirable, ~desirable], axis=1)
    assert area_under_curve(margins, present) == pytest.approx(np.mean(couples))
    with_a_pair = Margins(*(torch.cat([values, values[:1]]) for values in margins))
    assert area_under_curve(with_a_pair, np.vstack([present, [True, True]])) == pytest.approx(np.mean(couples))
    assert area_under_curve(Margins(*(values[desirable] for values in margins)), present[desirable]) is None


@pytest.mark.slow
@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("name", ["kto", "bco"])
def test_completions_of_one_kind_train(config: Make, pairs_file: Path, tmp_path: Path, name: str, label: bool) -> None:
    path = split(pairs_file, tmp_path / "one_kind.jsonl", kinds=(label,))
    data = dataclasses.replace(config().data, path=str(path))
    summary = train(config(data=data, objective=ObjectiveConfig(name=name)))
    assert summary is not None
    kind, other = ("chosen", "rejected") if label else ("rejected", "chosen")
    assert (summary.after[f"eval_rewards/{kind}"] > 0) == label
    assert f"eval_rewards/{other}" not in summary.after
    assert {True: "desirable", False: "undesirable"}[label] in summary.lines()[1]


@pytest.mark.slow
def test_layouts_and_micro_batches_give_the_same_losses(unpaired: Make, tmp_path: Path) -> None:
    runs = {}
    for layout, share, pairs in (("flat", True, 8), ("flat", False, 3), ("padded", "auto", 8)):
        model = dataclasses.replace(unpaired().model, batch_layout=layout, share_prompts=share)
        optim = OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=8, epochs=4, max_pairs_per_batch=pairs)
        settings = unpaired(model=model, optim=optim, output_dir=str(tmp_path / f"{layout}-{share}"))
        train(settings)
        runs[layout, share] = logged(settings, "loss") + logged(settings, "eval_loss")
    first, *others = runs.values()
    assert len(set(first)) > 8
    for other in others:
        assert other == pytest.approx(first, rel=1e-5)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(unpaired: Make, tmp_path: Path) -> None:
    runs = [unpaired(output_dir=str(tmp_path / name)) for name in ("whole", "killed")]
    train(runs[0])
    run_killed(runs[1], kill_during_training, tmp_path)
    train(runs[1])
    assert logged(runs[1], "loss") == logged(runs[0], "loss")
    whole, killed = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == killed


def train_here(settings: TrainConfig) -> None:
    train(settings)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(unpaired: Make, tmp_path: Path) -> None:
    alone, together = (unpaired(output_dir=str(tmp_path / name)) for name in ("alone", "together"))
    train(alone)
    run_on_ranks(2, train_here, together)
    for key in ("loss", "rewards/chosen", "eval_loss", "eval_rewards/rejected"):
        assert logged(together, key) == pytest.approx(logged(alone, key), rel=2e-5, abs=1e-6), key


@pytest.mark.slow
def test_paired_and_unpaired_data_train_together(unpaired: Make, tmp_path: Path, capsys: Any) -> None:
    pairs = write_pairs(tmp_path / "more.jsonl", rows=20, seed=1)
    data = dataclasses.replace(unpaired().data, mix=[MixedConfig(path=str(pairs), weight=0.5)])
    train(unpaired(data=data))
    said = capsys.readouterr().out
    assert "rows read" in said and "desirable" in said
    with pytest.raises(ValueError, match=r"row \d+ has one completion.*sigmoid takes pairs.*kto"):
        train(unpaired(data=data, objective=ObjectiveConfig(), output_dir=str(tmp_path / "refused")))


def test_objectives_that_compare_refuse_rows_of_one_completion_before_a_model_is_read(unpaired: Make) -> None:
    model = dataclasses.replace(unpaired().model, path="/nowhere")
    with pytest.raises(ValueError, match=r"In kto\.jsonl, row \d+ has one completion.*objective sigmoid takes pairs"):
        train(unpaired(model=model, objective=ObjectiveConfig()))
    with pytest.raises(ValueError, match=r"objective ipo takes pairs: set objective.name to one of .*kto"):
        train(unpaired(model=model, objective=ObjectiveConfig(name={"kto": 1.0, "ipo": 0.1})))


def test_the_best_evaluation_cannot_be_that_of_an_accuracy_that_is_not_there(unpaired: Make) -> None:
    log = dataclasses.replace(unpaired().log, eval_every=2)
    with pytest.raises(ValueError, match=r"set checkpoint\.best to eval_loss"):
        train(unpaired(log=log, checkpoint=CheckpointConfig(best="eval_rewards/accuracies")))


def test_a_weight_multiplies_the_loss_of_its_row(tmp_path: Path) -> None:
    pairs = as_singles(some_pairs(2))
    logp_of = -torch.linspace(0.1, 2.0, 9, dtype=torch.float64)
    doubled = dataclasses.replace(pairs, weight=2 * pairs.weight)
    assert loss_of("bco", doubled, logp_of) == pytest.approx(2 * loss_of("bco", pairs, logp_of).item())


@pytest.mark.slow
def test_labels_are_read_from_csv(config: Make, tmp_path: Path) -> None:
    path = tmp_path / "kto.csv"
    path.write_text("prompt,completion,label,weight\n" + "".join(f"say {i},no {i},{i % 2},0.5\n" for i in range(20)))
    data = DataConfig(path=str(path), eval_fraction=0, cache_dir=str(tmp_path / "cache"))
    train(config(data=data, objective=ObjectiveConfig(name="kto")))
