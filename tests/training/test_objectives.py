"""Every objective through the whole loop, and the rules that weights and step statistics keep there."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_pairs import write_pairs

from iwpo_fast.config import CheckpointConfig, DataConfig, ObjectiveConfig, OptimConfig, TrainConfig
from iwpo_fast.data.batch import flat_batch
from iwpo_fast.data.order import MicroBatch
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.objectives import OBJECTIVES
from iwpo_fast.objectives.registry import Constants, Reads
from iwpo_fast.training import train
from iwpo_fast.training.job import Job
from iwpo_fast.training.loss import PreferenceLoss, TokenScores
from iwpo_fast.training.step_constants import step_constants
from iwpo_fast.world import World
from iwpo_kernels import PreferenceOutput, weighted_preference_loss

ROWS = 26  # the last step of an epoch is ragged
STATISTICAL = sorted(name for name, objective in OBJECTIVES.items() if objective.statistics is not None)
WITH_OTHER_SIDE = sorted(name for name, objective in OBJECTIVES.items() if objective.one_sided is None)


def scored(tmp_path: Path, **columns: list) -> DataConfig:
    """Pairs with the scores of three reward models."""
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(ROWS, 3))
    path = write_pairs(
        tmp_path / "scored.jsonl",
        rows=ROWS,
        score_chosen=(scores + rng.uniform(0.1, 1, size=(ROWS, 3))).tolist(),
        score_rejected=scores.tolist(),
        weight=[0.25 * (i % 7) for i in range(ROWS)],
        **columns,
    )
    return DataConfig(path=str(path), eval_fraction=0.2, cache_dir=str(tmp_path / "cache"))


def candidates(tmp_path: Path) -> DataConfig:
    """Rows of three candidates."""
    rows = [
        {"prompt": f"say: {i}\n", "candidates": [f"{i}", f"{i + 1} no", "what"], "candidate_scores": [2 + i % 2, 1, 0]}
        for i in range(ROWS)
    ]
    path = tmp_path / "candidates.jsonl"
    path.write_text("".join(json.dumps(row | {"weight": 0.25 * (i % 7)}) + "\n" for i, row in enumerate(rows)))
    return DataConfig(path=str(path), eval_fraction=0.2, cache_dir=str(tmp_path / "cache"))


def logged(config: TrainConfig, key: str) -> list[float]:
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [metrics[key] for metrics in map(json.loads, lines) if key in metrics]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_each_objective_trains_with_weights_and_scores(config, tmp_path, name) -> None:
    smoothing = {"label_smoothing": [0.1 * (i % 3) for i in range(ROWS)]} if name in WITH_OTHER_SIDE else {}
    data = candidates(tmp_path) if Reads.CANDIDATES in OBJECTIVES[name].reads else scored(tmp_path, **smoothing)
    settings = config(
        data=data,
        objective=ObjectiveConfig(name=name),
        optim=OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=3, tokens_per_batch=400),
    )
    train(settings)
    losses, norms = logged(settings, "loss"), logged(settings, "grad_norm")
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))
    assert min(norms) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*STATISTICAL, "wpo", "ld_dpo", "drdo", {"sigmoid": 0.8, "bco": 0.2, "sft": 1.0}], ids=str
)
def test_losses_do_not_depend_on_how_a_step_is_cut(config, tmp_path, name) -> None:
    runs = []
    for pairs in (8, 3):
        settings = config(
            data=scored(tmp_path),
            objective=ObjectiveConfig(name=name),
            optim=OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=5, epochs=4, max_pairs_per_batch=pairs),
            output_dir=str(tmp_path / f"run-{pairs}"),
        )
        train(settings)
        runs.append(logged(settings, "loss") + logged(settings, "grad_norm"))
    assert runs[1] == pytest.approx(runs[0], rel=2e-4)


@pytest.mark.slow
def test_running_means_of_an_objective_survive_a_resume(config, tmp_path) -> None:
    objective, data = ObjectiveConfig(name="beta_dpo"), scored(tmp_path)
    optim = OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=6, epochs=4)
    through = config(data=data, objective=objective, optim=optim, output_dir=str(tmp_path / "through"))
    train(through)
    resumed = config(
        data=data,
        objective=objective,
        optim=optim,
        checkpoint=CheckpointConfig(every=3, keep=5),
        output_dir=str(tmp_path / "resumed"),
    )
    train(resumed)
    folder = Path(resumed.output_dir)
    state = json.loads((folder / "checkpoints" / "step-00000003" / "state.json").read_text())
    assert {"mean", "std"} <= set(state["objective"]["beta_dpo"])
    shutil.rmtree(folder / "checkpoints" / "step-00000006")
    (folder / "summary.json").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(
        "".join(line + "\n" for line in lines if json.loads(line).get("step", 0) <= 3)
    )
    train(resumed)
    assert logged(resumed, "loss") == logged(through, "loss")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simpo", "drdo"])
def test_a_reference_free_objective_runs_no_reference(config, tmp_path, monkeypatch, name) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("reference log-probs were computed")

    monkeypatch.setattr("iwpo_fast.training.prepared.with_reference", never)
    settings = config(data=scored(tmp_path), objective=ObjectiveConfig(name=name))
    train(settings)
    assert logged(settings, "loss")


def test_a_mixture_is_the_sum_of_its_parts() -> None:
    batch, pairs, logps = example()
    parts = {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
    whole, gradient = value_and_gradient(ObjectiveConfig(name=parts, beta=0.3), batch, pairs, logps)
    total, total_gradient = 0.0, torch.zeros_like(logps)
    for name, coefficient in parts.items():
        beta = None if name == "sft" else 0.3
        value, part = value_and_gradient(ObjectiveConfig(name=name, beta=beta), batch, pairs, logps)
        total += coefficient * float(value.loss.detach())
        total_gradient += coefficient * part
    assert float(whole.loss.detach()) == pytest.approx(total, rel=1e-6)
    torch.testing.assert_close(gradient, total_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_weight_zero_removes_a_pair_exactly(name) -> None:
    batch, pairs, logps = example(weight=np.array([1.0, 1.0, 0.0, 2.0]))
    output, gradient = value_and_gradient(ObjectiveConfig(name=name), batch, pairs, logps)
    poisoned = logps.clone()
    for sequence in (2, 6):
        start, end = batch.segments[sequence : sequence + 2]
        assert not gradient[start:end].any()
        poisoned[start:end] = float("nan")
    assert gradient.abs().sum() > 0
    again, same = value_and_gradient(ObjectiveConfig(name=name), batch, pairs, poisoned)
    assert torch.equal(again.loss, output.loss)
    assert torch.equal(same, gradient)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_weights_of_one_are_no_weights_bitwise(name) -> None:
    batch, pairs, logps = example(weight=np.ones(4))
    weighted, gradient = value_and_gradient(ObjectiveConfig(name=name), batch, pairs, logps)
    loss, logps = PreferenceLoss(ObjectiveConfig(name=name)), logps.clone().requires_grad_()
    tokens = with_statistics(loss, logps)
    constants = constants_of(loss, tokens, batch, pairs)
    if loss.mixture.fused is None:
        plain = (loss.mixture(loss._pair(tokens, batch), constants).sum() / 4).float()
    else:
        form = loss.mixture.fused(batch.scores.chunk(2))
        plain = weighted_preference_loss(logps, batch.segments, batch.ref_logps, None, denominator=4.0, **form).loss
    assert torch.equal(weighted.loss, plain)
    assert torch.equal(gradient, torch.autograd.grad(plain, logps)[0])


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_extreme_log_ratios_of_float32_tokens_give_finite_losses_and_gradients(name, sign) -> None:
    batch, pairs, logps = example()
    chosen = torch.arange(len(logps)) < batch.segments[4]
    logps = torch.where(chosen if sign < 0 else ~chosen, -1e4, -1e-3)
    output, gradient = value_and_gradient(ObjectiveConfig(name=name), batch, pairs, logps)
    assert torch.isfinite(output.loss)
    assert torch.isfinite(gradient).all()


def test_fused_and_autograd_paths_give_the_same_numbers(monkeypatch) -> None:
    batch, pairs, logps = example(smoothing=np.array([0.0, 0.2, 0.4, 0.1]))
    for name, objective in OBJECTIVES.items():
        if objective.fused is None or objective.one_sided is not None:
            continue
        fused, gradient = value_and_gradient(ObjectiveConfig(name=name), batch, pairs, logps)
        with monkeypatch.context() as patch:
            patch.setattr("iwpo_fast.objectives.mixture.Mixture.fused", None)
            plain, plain_gradient = value_and_gradient(ObjectiveConfig(name=name), batch, pairs, logps)
        torch.testing.assert_close(fused.loss, plain.loss, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(gradient, plain_gradient, rtol=1e-5, atol=1e-7)
        for field, ours, theirs in zip(fused.sums._fields, fused.sums, plain.sums, strict=True):
            torch.testing.assert_close(
                ours, theirs, rtol=1e-6, atol=1e-6, msg=lambda m, f=field, n=name: f"{n} {f}: {m}"
            )


def example(weight: np.ndarray | None = None, smoothing: np.ndarray | None = None) -> tuple:
    """Four pairs with scores of two reward models, their batch, and log-probs of their tokens."""
    rng = np.random.default_rng(3)

    def ragged(low: int, high: int) -> Ragged:
        return Ragged.from_rows([rng.integers(0, 9, rng.integers(low, high)) for _ in range(4)])

    scores = rng.normal(size=(4, 2))
    pairs = Pairs(
        prompt=ragged(1, 4),
        chosen=ragged(2, 7),
        rejected=ragged(2, 7),
        weight=np.ones(4) if weight is None else weight,
        label_smoothing=smoothing,
        columns={"score_chosen": scores + 0.5, "score_rejected": scores},
    )
    tokens = tuple(
        Ragged(-rng.gamma(2, 1, len(p.values)).astype(np.float32), p.offsets) for p in (pairs.chosen, pairs.rejected)
    )
    sums = np.stack([[p[i].sum() for i in range(4)] for p in tokens], axis=1).astype(np.float32)
    pairs = replace(pairs, ref_logps=sums, ref_token_logps=tokens)
    batch = flat_batch(pairs, np.arange(4), ref_tokens=True)
    logps = torch.from_numpy(-rng.gamma(2, 1, len(batch.labels)).astype(np.float32))
    return batch, pairs, logps


def value_and_gradient(config: ObjectiveConfig, batch, pairs, logps) -> tuple[PreferenceOutput, torch.Tensor]:
    loss = PreferenceLoss(config)
    logps = logps.clone().requires_grad_()
    tokens = with_statistics(loss, logps)
    output = loss(tokens, batch, 4.0, constants_of(loss, tokens, batch, pairs))
    (gradient,) = torch.autograd.grad(output.loss, logps)
    return output, gradient


def with_statistics(loss: PreferenceLoss, logps: torch.Tensor) -> TokenScores:
    of_tokens, of_head = loss.mixture.reads(Reads.ALIGNMENT), loss.mixture.reads(Reads.OWN_REWARD)
    sum_p2 = torch.full_like(logps, 0.3).detach() if of_tokens else None
    return TokenScores(logps, sum_p2, torch.linspace(-1, 1, 8) if of_head else None)


def constants_of(loss: PreferenceLoss, tokens, batch, pairs) -> Constants:
    """Those of a step that is this batch."""
    rows, world = np.arange(4), World(0, 1, torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreferenceLoss, "token_logps", lambda *_: tokens)
        batches = [(MicroBatch(rows, 0), batch)]
        job = Job(TrainConfig(data=DataConfig(path="")), world, torch.nn.Module(), loss, pairs)
        constants = step_constants(job, rows, batches, {}, np.random.default_rng(0))
    return constants(rows)
