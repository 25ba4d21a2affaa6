"""Rows of one completion as samples of the reference: the forward KL of e-DPO and its kin is taken on them alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_equivalence import logged

from iwpo_fast.config import ObjectiveConfig, OptimConfig, TrainConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.batch import flat_batch
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.objectives import OBJECTIVES
from iwpo_fast.training import train
from iwpo_fast.training.loss import PreferenceLoss, TokenScores
from iwpo_kernels import PreferenceOutput

SAMPLING = ["dp_dpo", "e_dpo", "e_dpo_batch", "p_dpo"]
LOGPS = -torch.linspace(0.1, 2.0, 9, dtype=torch.float64)
BETA, GAMMA = 0.7, 0.3
Make = Callable[..., TrainConfig]


def some_pairs(rows: int = 6, models: int = 3) -> Pairs:
    rng = np.random.default_rng(0)
    parts = [Ragged.from_rows([rng.integers(9, size=rng.integers(1, 6)) for _ in range(rows)]) for _ in range(3)]
    scores = {name: rng.normal(size=(rows, models)) for name in ("score_chosen", "score_rejected")}
    ref_logps = -rng.random((rows, 2)).astype(np.float32)
    return Pairs(*parts, weight=rng.random(rows), columns=scores, ref_logps=ref_logps)


def with_samples(pairs: Pairs, weight: np.ndarray, sides: np.ndarray) -> Pairs:
    """The pairs, and behind them one completion of each, without scores: the chosen ones where `sides` is 0."""
    count = len(pairs)
    both = pairs.take(np.tile(np.arange(count), 2))
    said = Ragged.from_rows([(pairs.chosen, pairs.rejected)[side][row] for row, side in enumerate(sides)])
    chosen = Ragged.concatenate([pairs.chosen, said])
    present = np.ones((2 * count, 2), dtype=bool)
    present[count:, 1] = False
    columns = {name: np.concatenate([v, np.full_like(v, np.nan)]) for name, v in pairs.columns.items()}
    assert pairs.ref_logps is not None
    ref = np.stack([pairs.ref_logps[np.arange(count), sides], np.zeros(count)], axis=1)
    return dataclasses.replace(
        dataclasses.replace(both, chosen=chosen).only(present),
        weight=np.concatenate([pairs.weight, weight]),
        columns=columns,
        ref_logps=np.concatenate([pairs.ref_logps, ref]).astype(np.float32),
    )


def output_of(name: str, pairs: Pairs, logps: torch.Tensor, denominator: float) -> PreferenceOutput:
    """A token's log-prob is that of its id."""
    loss, rows = PreferenceLoss(ObjectiveConfig(name=name, beta=BETA, params={"gamma": GAMMA})), np.arange(len(pairs))
    batch = flat_batch(pairs, rows)
    tokens = TokenScores(logps[batch.labels])
    step = loss.step_pair(pairs, rows, loss.sequence_logps(tokens, batch))
    return loss(tokens, batch, denominator, loss.mixture.constants(step, {}, None))


def log_ratios(pairs: Pairs, rows: range) -> np.ndarray:
    """[rows, 2], by a slow sum; an absent completion has none."""
    sides, ref = (pairs.chosen, pairs.rejected), pairs.ref_logps
    assert ref is not None
    return np.array(
        [[sum(LOGPS[i].item() for i in side[row]) - ref[row, k] for k, side in enumerate(sides)] for row in rows]
    )


def test_the_objectives_that_take_samples_are_those_with_a_forward_kl() -> None:
    assert sorted(name for name, objective in OBJECTIVES.items() if objective.samples) == SAMPLING


def test_e_dpo_is_the_least_error_of_pairs_and_the_mean_log_loss_of_samples() -> None:
    pairs, weight = some_pairs(), np.random.default_rng(1).random(6)
    both = with_samples(pairs, weight, np.array([0, 1, 1, 0, 1, 0]))
    s, of_samples = log_ratios(both, range(6)), log_ratios(both, range(6, 12))[:, 0]
    gaps = pairs.columns["score_chosen"] - pairs.columns["score_rejected"]
    errors = ((gaps.astype(np.float32) - BETA * (s[:, :1] - s[:, 1:])) ** 2).min(axis=1)
    expected = (pairs.weight * errors).sum() - GAMMA * (weight * of_samples).sum()
    assert output_of("e_dpo", both, LOGPS, 1.0).loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", SAMPLING)
def test_completions_of_the_pairs_as_samples_give_what_they_stand_in_for(name: str) -> None:
    """Loss, gradient and every metric of the pairs."""
    pairs = some_pairs()
    halves, others = (with_samples(pairs, pairs.weight / 2, np.full(6, side)) for side in (0, 1))
    others = dataclasses.replace(others, weight=np.concatenate([np.zeros(6), others.weight[6:]]))  # without pairs
    found = []
    for parts in ([pairs], [halves, others]):
        logps = LOGPS.clone().requires_grad_()
        outputs = [output_of(name, part, logps, 6.0) for part in parts]
        loss = torch.stack([output.loss for output in outputs]).sum()
        loss.backward()
        assert logps.grad is not None
        found.append((loss.detach(), logps.grad, outputs[0].sums))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-12, atol=1e-12)
    for key in ("pairs", "weights", "squared_weights", "chosen_rewards", "rejected_rewards", "margins", "correct"):
        torch.testing.assert_close(getattr(found[1][2], key), getattr(found[0][2], key), rtol=1e-12, atol=1e-12)


def test_the_nearest_model_of_a_step_is_that_of_its_pairs() -> None:
    pairs = some_pairs()
    both = with_samples(pairs, np.ones(6), np.zeros(6, dtype=int))
    loss = PreferenceLoss(ObjectiveConfig(name="e_dpo_batch", beta=BETA))
    nearest = []
    for some in (pairs, both):
        rows, batch = np.arange(len(some)), flat_batch(some, np.arange(len(some)))
        step = loss.step_pair(some, rows, loss.sequence_logps(TokenScores(LOGPS[batch.labels]), batch))
        nearest.append(loss.mixture.constants(step, {}, None)["e_dpo_batch"]["nearest"][0].item())
    assert nearest[0] == nearest[1]


def write(path: Path, pairs_file: Path, *, samples: bool) -> Path:
    """Scored pairs, and behind them both completions of each as samples of half the weight."""
    rows = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    scores = [{"score_chosen": [1.0, 0.1 * (i % 3)], "score_rejected": [0.2, -0.3]} for i in range(len(rows))]
    scored = [row | {"weight": 1.0} | of for row, of in zip(rows, scores, strict=True)]
    for row in rows if samples else ():
        for name in ("chosen", "rejected"):
            scored.append({"prompt": row["prompt"], "completion": row[name], "label": True, "weight": 0.5})
    path.write_text("".join(json.dumps(row) + "\n" for row in scored))
    return path


def of_file(config: Make, path: Path, **parts: Any) -> TrainConfig:
    data = dataclasses.replace(config().data, path=str(path), eval_fraction=0.0)
    objective = ObjectiveConfig(name="e_dpo", params={"gamma": GAMMA})
    return config(**({"data": data, "objective": objective} | parts))


@pytest.mark.slow
@pytest.mark.parametrize("normalize", ["count", "weights"])
def test_training_on_the_pairs_own_completions_as_samples_is_training_on_the_pairs(
    config: Make, pairs_file: Path, tmp_path: Path, normalize: str
) -> None:
    """Where each step sees all rows: losses, accuracies and gradient norms, step after step."""
    runs = []
    objective = ObjectiveConfig(name="e_dpo", params={"gamma": GAMMA}, normalize=normalize)
    for samples in (False, True):
        path = write(tmp_path / f"{samples}.jsonl", pairs_file, samples=samples)
        optim = OptimConfig(
            lr=1e-3, pairs_per_step=120 if samples else 40, max_steps=4, epochs=4, max_pairs_per_batch=16
        )
        folder = str(tmp_path / f"run-{samples}")
        settings = of_file(config, path, optim=optim, objective=objective, output_dir=folder)
        train(settings)
        runs.append(settings)
    for key in ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "grad_norm"):
        first, second = (logged(settings, key) for settings in runs)
        assert second == pytest.approx(first, rel=2e-4, abs=1e-6), key
    assert len(set(logged(runs[0], "loss"))) == 4


def test_what_cannot_be_samples_is_refused_before_a_model_is_read(
    config: Make, pairs_file: Path, tmp_path: Path
) -> None:
    nowhere = dataclasses.replace(config().model, path="/nowhere")
    path = write(tmp_path / "pairs.jsonl", pairs_file, samples=True)
    with pytest.raises(ValueError, match="objective d_dpo takes pairs"):
        train(of_file(config, path, model=nowhere, objective=ObjectiveConfig(name="d_dpo")))
    lines = path.read_text().replace('"label": true', '"label": false', 1)
    (tmp_path / "false.jsonl").write_text(lines)
    with pytest.raises(ValueError, match=r"row 41 has one completion, which the objective e_dpo takes for a sample"):
        train(of_file(config, tmp_path / "false.jsonl", model=nowhere))
    alone = "".join(line + "\n" for line in path.read_text().splitlines() if "completion" in json.loads(line))
    (tmp_path / "alone.jsonl").write_text(alone)
    with pytest.raises(ValueError, match=r"All rows of alone\.jsonl have one completion.*add pairs"):
        train(of_file(config, tmp_path / "alone.jsonl", model=nowhere))
