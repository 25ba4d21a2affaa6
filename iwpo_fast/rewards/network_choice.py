"""Whether networks beside the linear heads are worth it, of which width and decay, and after how many rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.config import RewardConfig
from iwpo_fast.rewards.blocks import Float32s, Ints
from iwpo_fast.rewards.calibration import logistic_slope
from iwpo_fast.rewards.cross_fit import FoldHeads, slope_of_heads
from iwpo_fast.rewards.descent import best_rounds
from iwpo_fast.rewards.directions import directions
from iwpo_fast.rewards.heads import TrainingPairs
from iwpo_fast.rewards.linear_heads import LinearHeads
from iwpo_fast.rewards.network_fit import Examples, Networks, train
from iwpo_fast.rewards.network_heads import NetworkHeads

WIDTHS = (16, 64)
DECAYS = (1.0, 10.0)
MOST_ROUNDS = 30

Float64s = NDArray[np.float64]


def may_have_networks(settings: RewardConfig) -> bool:
    """Whether networks are tried: where they are asked for, and by `auto` without fine-tuning and the overlap term."""
    return settings.heads == "mlp" or (settings.heads == "auto" and settings.tuning is None and not settings.overlap)


def with_networks(
    of_folds: FoldHeads, pairs: TrainingPairs, penalties: dict[str, Any]
) -> tuple[FoldHeads, dict[str, Any]]:
    """The heads with networks beside them, if `rewards.heads` asks for them or they are worth it; and a report.

    Width, decay and rounds are those of the least held-out loss over the folds. With `auto` networks are taken where
    that is lower than the loss of the linear heads by more than a standard error, where every prompt counts once.
    All pairs decide: on a part of many pairs, stronger decay looked best than was best for all of them.
    """
    linear, seed = of_folds.heads, of_folds.seed
    assert isinstance(linear, LinearHeads)
    projection = directions(pairs.features, seed)
    examples = _cross_validated(pairs, penalties, pairs.features @ projection)
    choice, losses, trials = _chosen(examples, pairs.fold, seed)
    better = held_out_losses(examples.offset, pairs.fold) - losses
    gain, error = float(better.mean()), float(better.std() / np.sqrt(len(np.unique(pairs.prompt))))
    taken = pairs.settings.heads == "mlp" or gain > error
    report = choice | {"trials": trials, "taken": taken, "held_out_gain": gain, "standard_error": error}
    if not taken:
        return of_folds, report
    shown = _of_ensemble(of_folds, linear, pairs, examples)
    decays = np.full(linear.folds * linear.members, choice["decay"])
    networks = next(islice(train(shown, choice["width"], decays, seed=seed), choice["rounds"] - 1, None))
    slope = slope_of_heads(networks.gaps(shown), shown.weights)
    return replace(of_folds, heads=_heads(linear, projection, networks, slope)), report


def _heads(linear: LinearHeads, projection: Float32s, networks: Networks, slope: Float64s) -> NetworkHeads:
    hidden, bias, output, share = (part.detach().numpy() for part in networks)
    shape = linear.folds, linear.members
    return NetworkHeads(linear, projection, hidden, bias, output, share.reshape(shape), slope.reshape(shape))


def _cross_validated(pairs: TrainingPairs, penalties: dict[str, Any], inputs: Float32s) -> Examples:
    """Examples for one network for each fold, which is shown the pairs of the others."""
    rewards, seen = cross_validated_rewards(pairs, penalties)
    gaps = pairs.compared @ rewards
    return Examples(
        inputs=inputs,
        cluster=pairs.cluster,
        sides=pairs.sides,
        offset=(gaps * slope_of_heads(gaps, seen)).astype(np.float32),
        weights=seen,
        centring=pairs.settings.centring,
    )


def cross_validated_rewards(pairs: TrainingPairs, penalties: dict[str, Any]) -> tuple[Float32s, Float64s]:
    """Rewards [n, folds] by one linear head for each fold, and how often it is shown each pair, [P, folds]."""
    folds = int(pairs.fold.max()) + 1
    seen = (pairs.fold[:, None] != np.arange(folds)).astype(np.float64)
    residual = penalties["residual"]
    ridges, residuals = np.full(folds, penalties["ridge"]), None if residual is None else np.full(folds, residual)
    return pairs.fit(seen, ridges, residuals)[1], seen


def _of_ensemble(of_folds: FoldHeads, linear: LinearHeads, pairs: TrainingPairs, examples: Examples) -> Examples:
    """The same for one network beside each linear head of the ensembles, which is shown what that head was."""
    weights = of_folds.weights.reshape(len(of_folds.weights), -1)
    offset = (pairs.compared @ ensemble_rewards(linear, pairs)) * linear.slope.reshape(-1)
    return examples._replace(offset=offset.astype(np.float32), weights=weights)


def ensemble_rewards(linear: LinearHeads, pairs: TrainingPairs) -> Float32s:
    """[n, folds · members], not yet in log-odds."""
    vectors = linear.vectors.reshape(*linear.vectors.shape[:2], -1)
    cells = [slice(None)] if len(vectors) == 1 else pairs.cells
    return np.concatenate([pairs.features[cell] @ vectors[k] for k, cell in enumerate(cells)])


def _chosen(examples: Examples, fold: Ints, seed: int) -> tuple[dict[str, Any], Float64s, list[dict[str, Any]]]:
    """Width, decay and rounds of the least held-out loss; that loss [P]; and what was tried."""
    trials: list[dict[str, Any]] = []
    found: list[Float64s] = []
    for width in WIDTHS:
        for decay, (rounds, losses) in zip(DECAYS, _held_out(examples, fold, width, DECAYS, seed), strict=True):
            trials.append({"width": width, "decay": decay, "rounds": rounds, "held_out_loss": float(losses.mean())})
            found.append(losses)
    best = int(np.argmin([trial["held_out_loss"] for trial in trials]))
    return {name: trials[best][name] for name in ("width", "decay", "rounds")}, found[best], trials


def _held_out(
    examples: Examples, fold: Ints, width: int, decays: Sequence[float], seed: int
) -> list[tuple[int, Float64s]]:
    """For each decay the rounds of the least held-out loss, and that loss [P] of every pair."""
    folds, tried = examples.weights.shape[1], len(decays)
    repeated = examples._replace(
        offset=examples.offset.repeat(tried, axis=1), weights=examples.weights.repeat(tried, axis=1)
    )
    trained = islice(train(repeated, width, np.tile(decays, folds), seed=seed), MOST_ROUNDS)
    gaps = (networks.gaps(repeated).reshape(len(fold), folds, tried) for networks in trained)
    return best_rounds(np.stack([held_out_losses(g[:, :, i], fold) for i in range(tried)]) for g in gaps)


def held_out_losses(gaps: Float32s, fold: Ints) -> Float64s:
    """[P] in nats: loss of every pair by the head [P, folds] that did not see it, after the best common slope."""
    gap = gaps[np.arange(len(fold)), fold].astype(np.float64)
    return np.logaddexp(0, -logistic_slope(gap) * gap)
