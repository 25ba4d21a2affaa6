"""Strength of ridge and residuals, by cross-validation over the folds of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.rewards.slope import logistic_slope
from iwpo_fast.rewards.training_pairs import TrainingPairs

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
RESIDUALS_BY_RIDGE = (0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class Penalties:
    """Penalties of the heads, and what was tried: held-out loss in nats after the best common slope."""

    ridge: float
    residual: float | None
    trials: list[dict[str, Any]]


def choose_penalties(pairs: TrainingPairs) -> Penalties:
    """Ridge of least held-out loss, then the residual penalty, each where the settings say `auto`.

    Among the residual penalties, the strongest (none at all being stronger than any) whose loss is within one standard
    error of the least: clusters must earn their parameters. All folds have a say in the choice, so the two numbers,
    unlike the heads, know all pairs.
    """
    settings, trials = pairs.settings, list[dict[str, Any]]()
    residual = None if pairs.clusters == 1 else settings.residual
    if settings.ridge != "auto" and residual != "auto":
        return Penalties(settings.ridge, residual, trials)

    ridges = RIDGES if settings.ridge == "auto" else (settings.ridge,)
    shared = _held_out_losses(pairs, np.array(ridges), None)
    best = int(shared.mean(axis=0).argmin())
    ridge = ridges[best]
    trials += [_trial(r, None, losses) for r, losses in zip(ridges, shared.T, strict=True)]
    if residual != "auto":
        return Penalties(ridge, residual, trials)

    residuals = np.array(RESIDUALS_BY_RIDGE) * ridge
    losses = _held_out_losses(pairs, np.full(len(residuals), ridge), residuals)
    trials += [_trial(ridge, float(r), own) for r, own in zip(residuals, losses.T, strict=True)]
    candidates: list[float | None] = [*residuals.tolist(), None]
    losses = np.concatenate([losses, shared[:, [best]]], axis=1)
    excess = losses - losses[:, [losses.mean(axis=0).argmin()]]
    error = excess.std(axis=0) / np.sqrt(len(np.unique(pairs.prompt)))
    return Penalties(ridge, candidates[int(np.flatnonzero(excess.mean(axis=0) <= error).max())], trials)


def _held_out_losses(
    pairs: TrainingPairs, ridges: NDArray[np.float64], residuals: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Loss [P, candidates] of every pair under the heads that did not see its fold."""
    folds = int(pairs.fold.max()) + 1
    seen = (pairs.fold[:, None] != np.arange(folds)).astype(np.float64)
    heads = pairs.fit(
        np.repeat(seen, len(ridges), axis=1),
        np.tile(ridges, folds),
        None if residuals is None else np.tile(residuals, folds),
    )
    gaps = (pairs.compared @ heads.rewards).reshape(len(pairs.fold), folds, len(ridges))
    gaps = gaps[np.arange(len(pairs.fold)), pairs.fold]
    return np.stack([np.logaddexp(0, -logistic_slope(gap) * gap) for gap in gaps.T.astype(np.float64)], axis=1)


def _trial(ridge: float, residual: float | None, losses: NDArray[np.float64]) -> dict[str, Any]:
    return {"ridge": ridge, "residual": residual, "held_out_loss": float(losses.mean())}
