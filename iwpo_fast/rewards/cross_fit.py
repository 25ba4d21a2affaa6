"""Ensembles of heads that score prompts which they never saw: folds of prompts, penalties, bootstraps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.rewards.blocks import Float32s, Float64s, Groups, Ints
from iwpo_fast.rewards.calibration import logistic_slope
from iwpo_fast.rewards.family import shown_to
from iwpo_fast.rewards.head_kinds import Heads
from iwpo_fast.rewards.heads import TrainingPairs
from iwpo_fast.rewards.linear_heads import LinearHeads

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
RESIDUALS_BY_RIDGE = (0.3, 1.0, 3.0, 10.0, 30.0)


def fold_of_prompts(keys: Sequence[bytes | str | int], folds: int, seed: int) -> Ints:
    """Fold [M] int64 of every prompt, by hash: equal keys share a fold, and more prompts change no fold."""
    return np.fromiter((_hash(key, seed) % folds for key in keys), dtype=np.int64, count=len(keys))


def _hash(key: bytes | str | int, seed: int) -> int:
    text = key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, salt=seed.to_bytes(16, "little", signed=True))
    return int.from_bytes(digest.digest(), "little")


def choose_penalties(pairs: TrainingPairs) -> dict[str, Any]:
    """Ridge of least held-out loss, then the residual penalty, each where the settings say `auto`.

    The residual penalty is the strongest whose loss is within one standard error of the least; leaving residuals out
    counts as the strongest of all, because clusters must earn their parameters. The pairs of all folds decide,
    so these two numbers, unlike the heads, depend on all pairs.

    Returns:
        `ridge`, `residual` (None for no residuals) and `trials`: what was tried, with its held-out loss in nats after
        the best common slope.
    """
    settings, trials = pairs.settings, list[dict[str, Any]]()

    def chosen(ridge: float, residual: float | None) -> dict[str, Any]:
        return {"ridge": ridge, "residual": residual, "trials": trials}

    residual = None if len(pairs.cells) == 1 else settings.residual
    if settings.ridge != "auto" and residual != "auto":
        return chosen(settings.ridge, residual)

    ridges = RIDGES if settings.ridge == "auto" else (settings.ridge,)
    shared = _held_out_losses(pairs, np.array(ridges), None)
    best = int(shared.mean(axis=0).argmin())
    ridge = ridges[best]
    trials += [_trial(r, None, loss) for r, loss in zip(ridges, shared.T, strict=True)]
    if residual != "auto":
        return chosen(ridge, residual)

    residuals = np.array(RESIDUALS_BY_RIDGE) * ridge
    losses = _held_out_losses(pairs, np.full(len(residuals), ridge), residuals)
    trials += [_trial(ridge, float(r), loss) for r, loss in zip(residuals, losses.T, strict=True)]
    candidates: list[float | None] = [*residuals.tolist(), None]
    losses = np.concatenate([losses, shared[:, [best]]], axis=1)
    excess = losses - losses[:, [losses.mean(axis=0).argmin()]]
    error = excess.std(axis=0) / np.sqrt(len(np.unique(pairs.prompt)))
    return chosen(ridge, candidates[int(np.flatnonzero(excess.mean(axis=0) <= error).max())])


def _held_out_losses(pairs: TrainingPairs, ridges: Float64s, residuals: Float64s | None) -> Float64s:
    """Loss [P, candidates] of every pair under the heads that did not see its fold."""
    folds = int(pairs.fold.max()) + 1
    seen = (pairs.fold[:, None] != np.arange(folds)).astype(np.float64)
    _, rewards = pairs.fit(
        np.repeat(seen, len(ridges), axis=1),
        np.tile(ridges, folds),
        None if residuals is None else np.tile(residuals, folds),
    )
    gaps = (pairs.compared @ rewards).reshape(len(pairs.fold), folds, len(ridges))
    gaps = gaps[np.arange(len(pairs.fold)), pairs.fold]
    return np.stack([np.logaddexp(0, -logistic_slope(gap) * gap) for gap in gaps.T.astype(np.float64)], axis=1)


def _trial(ridge: float, residual: float | None, losses: Float64s) -> dict[str, Any]:
    return {"ridge": ridge, "residual": residual, "held_out_loss": float(losses.mean())}


@dataclass(frozen=True)
class FoldHeads:
    """An ensemble of heads for each fold, which learnt from the other folds; with one fold, from all pairs.

    Attributes:
        heads: of all folds.
        weights: [P, folds, members] fp64, how often each head was shown each pair.
        cluster, prompt: [C] int64, of every response.
        fold: [C] int64, heads that score each response.
        seed: of folds and bootstraps, and of a tuning of the model under the heads.
    """

    heads: Heads
    weights: Float64s
    cluster: Ints
    prompt: Ints
    fold: Ints
    seed: int

    def rewards(self, groups: Groups) -> Float32s:
        """[C, members] fp32, in log-odds, of the features [C, d] that the heads learnt from."""
        rewards = np.empty((len(self.fold), self.heads.members), dtype=np.float32)
        for place, all_folds in self.heads.rewards(groups, self.cluster, self.prompt):
            rewards[place] = all_folds[np.arange(len(all_folds)), self.fold[place]]
        return rewards


class TunedRewards(NamedTuple):
    """What the heads of folds say of responses on features that have been tuned for them, in log-odds.

    Attributes:
        rewards: [C, members] fp32, of every response.
        scores: [P, members] fp32, of the chosen over the rejected response of every pair, by heads that compare; None
            of others, whose scores are the gaps of the rewards.
    """

    rewards: Float32s
    scores: Float32s | None = None


def fit_fold_heads(
    pairs: TrainingPairs,
    ridge: float,
    residual: float | None,
    response_cluster: Ints,
    response_prompt: Ints,
    response_fold: Ints,
    *,
    seed: int,
) -> FoldHeads:
    """Heads of all folds at once.

    Every head of an ensemble of two or more learns from a bootstrap of the prompts, and every one of a family from the
    pairs that its member is shown. Its unit is then the log-odds of its own training pairs (its slope on them is 1),
    which undoes the shrinking of the penalties.

    Raises:
        ValueError: a fold lacks the pairs that a member of a family is to be shown.
    """
    folds, members = pairs.settings.folds, pairs.settings.members
    fold = pairs.fold if folds > 1 else np.full(len(pairs.fold), -1)
    count = folds * members
    weights = np.stack(
        [_shown(pairs, fold != f, m, (seed, f, m)) for f, m in np.ndindex(folds, members)],
        axis=1,
    )
    vectors, rewards = pairs.fit(weights, np.full(count, ridge), None if residual is None else np.full(count, residual))
    slope = slope_of_heads(pairs.compared @ rewards, weights).reshape(folds, members)
    return FoldHeads(
        heads=LinearHeads(pairs.mean, pairs.scale, vectors.reshape(*vectors.shape[:2], folds, members), slope),
        weights=weights.reshape(-1, folds, members),
        cluster=response_cluster,
        prompt=response_prompt,
        fold=response_fold if folds > 1 else np.zeros_like(response_fold),
        seed=seed,
    )


def slope_of_heads(gaps: NDArray[np.floating], weights: NDArray[np.floating]) -> Float64s:
    """[m] fp64: logistic slope of each head's gaps [P, m], over pairs with weights [P, m]."""
    return np.array([logistic_slope(gap, weight) for gap, weight in zip(gaps.T, weights.T, strict=True)])


def _shown(pairs: TrainingPairs, seen: NDArray[np.bool_], member: int, seed: tuple[int, ...]) -> Float64s:
    """Weight [P] of every pair for one head of a fold."""
    if pairs.settings.family is None:
        return _bootstrap(pairs.prompt, seen, pairs.settings.ensemble, seed)
    return shown_to(pairs.settings.family, member, pairs.prompt, pairs.lengths, seen, seed)


def _bootstrap(prompt: Ints, seen: NDArray[np.bool_], members: int, seed: tuple[int, ...]) -> Float64s:
    """Weight [P] of every pair: how often its prompt is drawn, with replacement, from those seen."""
    if members == 1:
        return seen.astype(np.float64)
    prompts, place = np.unique(prompt[seen], return_inverse=True)
    drawn = np.random.default_rng(seed).integers(len(prompts), size=len(prompts))
    weights = np.zeros(len(prompt))
    weights[seen] = np.bincount(drawn, minlength=len(prompts))[place]
    return weights
