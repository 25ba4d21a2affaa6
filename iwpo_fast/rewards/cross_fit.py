"""Ensembles of heads, each for the prompts that it never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.rewards.blocks import Float32s, SideBySide, float32_blocks
from iwpo_fast.rewards.feature_matrix import Standardise
from iwpo_fast.rewards.penalties import Penalties
from iwpo_fast.rewards.slope import logistic_slope
from iwpo_fast.rewards.training_pairs import TrainingPairs


@dataclass(frozen=True)
class FoldHeads:
    """An ensemble of heads for each fold, which learnt from the other folds; with one fold, from all pairs.

    Attributes:
        standardise: how features are changed before they meet a head.
        vectors: [G, d, folds, members] fp32, v + δ_k; [1, ...] without residuals.
        weights: [P, folds, members] fp64, how often each head was shown each pair.
        slope: [folds, members] fp64, log-odds of the pairs that a head was shown, per unit of its reward.
        cluster: [C] int64, of every response.
        fold: [C] int64, heads that score each response.
    """

    standardise: Standardise
    vectors: Float32s
    weights: NDArray[np.float64]
    slope: NDArray[np.float64]
    cluster: NDArray[np.int64]
    fold: NDArray[np.int64]

    def rewards(self, response_features: SideBySide) -> Float32s:
        """[C, members] fp32, in log-odds, of the features [C, d] that the heads learnt from."""
        _, _, folds, members = self.vectors.shape
        vectors = (self.vectors * self.slope.astype(np.float32)).reshape(len(self.vectors), -1, folds * members)
        rewards = np.empty((len(response_features), members), dtype=np.float32)
        for place, block in float32_blocks(response_features):
            block = self.standardise(block)
            own = self.cluster[place] if len(vectors) > 1 else np.zeros(len(block), dtype=np.int64)
            for k in np.unique(own):
                rows = np.flatnonzero(own == k)
                all_folds = (block[rows] @ vectors[k]).reshape(-1, folds, members)
                rewards[place.start + rows] = all_folds[np.arange(len(rows)), self.fold[place][rows]]
        return rewards


def fit_fold_heads(
    pairs: TrainingPairs,
    penalties: Penalties,
    response_cluster: NDArray[np.int64],
    response_fold: NDArray[np.int64],
    *,
    seed: int,
) -> FoldHeads:
    """Heads of all folds at once.

    Every head of an ensemble of two or more learns from a bootstrap of the prompts. Its unit will be the log-odds of
    its own training pairs (its slope on them is 1), which undoes the shrinking of the penalties.
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
    vectors, slope = heads.vectors, slope_of_heads(pairs.compared @ heads.rewards, weights)
    return FoldHeads(
        standardise=pairs.units,
        vectors=vectors.reshape(*vectors.shape[:2], folds, members),
        weights=weights.reshape(-1, folds, members),
        slope=slope.reshape(folds, members),
        cluster=response_cluster,
        fold=response_fold if folds > 1 else np.zeros_like(response_fold),
    )


def slope_of_heads(gaps: NDArray[np.floating], weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """[m] fp64: logistic slope of each head's gaps [P, m], over pairs with weights [P, m]."""
    return np.array([logistic_slope(gap, weight) for gap, weight in zip(gaps.T, weights.T, strict=True)])


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
