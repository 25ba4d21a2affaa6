"""Rewards of every response by an ensemble that never saw its prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.rewards.blocks import Float32s, Floats, float32_blocks
from iwpo_fast.rewards.penalties import Penalties
from iwpo_fast.rewards.slope import logistic_slope
from iwpo_fast.rewards.training_pairs import TrainingPairs


def cross_fitted_rewards(
    pairs: TrainingPairs,
    penalties: Penalties,
    response_features: Floats,
    response_cluster: NDArray[np.int64],
    response_fold: NDArray[np.int64],
    *,
    seed: int,
) -> Float32s:
    """[C, members] fp32. Fold f is scored by heads of the other folds; with `folds` 1, by heads of all pairs.

    Every head of an ensemble of two or more learns from a bootstrap of the prompts. Its unit is the log-odds of its own
    training pairs (its slope on them is 1), which undoes the shrinking of the penalties.
    """
    folds, members = pairs.settings.folds, pairs.settings.ensemble
    fold = pairs.fold if folds > 1 else np.full(len(pairs.fold), -1)
    count = folds * members
    weights = np.stack(
        [_bootstrap(pairs.prompt, fold != f, members, (seed, f, m)) for f, m in np.ndindex(folds, members)], axis=1
    )
    heads = pairs.fit(
        weights,
        np.full(count, penalties.ridge),
        None if penalties.residual is None else np.full(count, penalties.residual),
    )
    gaps = pairs.compared @ heads.rewards
    units = np.array([logistic_slope(gap, weight) for gap, weight in zip(gaps.T, weights.T, strict=True)])
    vectors = heads.vectors * units.astype(np.float32)

    rewards = np.empty((len(response_features), members), dtype=np.float32)
    scored_by = response_fold if folds > 1 else np.zeros(len(response_features), dtype=np.int64)
    for place, block in float32_blocks(response_features):
        block = pairs.units(block)
        own = response_cluster[place] if len(vectors) > 1 else np.zeros(len(block), dtype=np.int64)
        for k in np.unique(own):
            rows = np.flatnonzero(own == k)
            all_folds = (block[rows] @ vectors[k]).reshape(len(rows), folds, members)
            rewards[place.start + rows] = all_folds[np.arange(len(rows)), scored_by[place][rows]]
    return rewards


def _bootstrap(
    prompt: NDArray[np.int64], seen: NDArray[np.bool_], members: int, seed: tuple[int, ...]
) -> NDArray[np.float64]:
    """Weight [P] of every pair: how often its prompt is drawn, with replacement, from those seen."""
    if members == 1:
        return seen.astype(np.float64)
    prompts, place = np.unique(prompt[seen], return_inverse=True)
    drawn = np.random.default_rng(seed).integers(len(prompts), size=len(prompts))
    weights = np.zeros(len(prompt))
    weights[seen] = np.bincount(drawn, minlength=len(prompts))[place]
    return weights
