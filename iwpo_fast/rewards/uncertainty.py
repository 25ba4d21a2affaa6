"""How far the features of a response are from what the heads learnt from.

b(x, y) = sqrt(uᵀ (Σ_i d_i d_iᵀ + λ I)⁻¹ u),   u = f(x, y) - f̄_z,   d_i = f(x_i, y_w) - f(x_i, y_l)

over the pairs i that the heads of a fold were shown; f̄_z is the mean of those pairs' responses in the cluster of the
prompt. It is the bonus of BRAID (arXiv 2405.19673) with differences in the place of features, because labels of pairs
say nothing of what the two responses have in common, and with the reference vector of pessimism by comparisons (Zhu,
Jordan and Jiao, arXiv 2301.11270): a calibrated reward is s (r - a_z), by how much a response is better than the mean
of its cluster.

Unit: near p = 1/2 the Hessian of the logistic loss of P pairs with penalty ρ ‖v‖² per pair is
Σ d dᵀ / 4 + 2 P ρ I = (Σ d dᵀ + 8 P ρ I) / 4. With λ = 8 P ρ, 2 b is thus the standard error, by Laplace, of the
log-odds that the response is better than the mean; residuals of clusters and networks are left out of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from iwpo_fast.rewards.blocks import Float32s, Float64s, Groups, Ints, float32_blocks
from iwpo_fast.rewards.heads import TrainingPairs

PAIRS_AT_ONCE = 4096


@dataclass(frozen=True)
class Uncertainty:
    """What the heads of each fold were shown. Its size is 4 d² bytes for each fold.

    Attributes:
        mean, scale: [d] fp32, by which features are standardised.
        centre: [folds, G, d] fp32, f̄, standardised; 0, the mean of all, for a cluster of which a fold saw nothing.
        root: [folds, d, d] fp32, a matrix R with R Rᵀ = (Σ d dᵀ + λ I)⁻¹.
    """

    mean: Float32s
    scale: Float32s
    centre: Float32s
    root: Float32s

    @classmethod
    def fit(cls, pairs: TrainingPairs, head_ridge: float, ridge: float | Literal["auto"]) -> Self:
        """Of all folds, each from the pairs of the others; with one fold, from all pairs.

        Args:
            head_ridge: ρ, for λ = 8 P ρ.
            ridge: λ; `auto` takes that of `head_ridge`.
        """
        folds = pairs.settings.folds
        part = pairs.fold if folds > 1 else np.zeros_like(pairs.fold)
        counts = np.bincount(part, minlength=folds)
        squares = np.stack([_squares(pairs, part == f) for f in range(folds)])
        roots, centres = [], []
        for f in range(folds):
            seen = [g for g in range(folds) if g != f or folds == 1]
            strength = 8 * int(counts[seen].sum()) * head_ridge if ridge == "auto" else ridge
            roots.append(_root(squares[seen].sum(axis=0), strength))
            centres.append(_centres(pairs, np.isin(part, seen)))
        return cls(pairs.mean.copy(), pairs.scale.copy(), np.stack(centres), np.stack(roots))

    def bonus(self, groups: Groups, cluster: Ints, fold: Ints) -> Float64s:
        """b [C] fp64 of the features [C, d].

        Args:
            cluster: [C], of the prompts.
            fold: [C], by the pairs of which fold's heads; -1 takes the mean over all folds.
        """
        found, folds = np.zeros(len(cluster)), len(self.root)
        for place, block in float32_blocks(groups):
            block = (block - self.mean) * self.scale
            for f in range(folds):
                rows = np.flatnonzero((fold[place] == f) | (fold[place] < 0))
                away = block[rows] - self.centre[f, cluster[place][rows]]
                share = np.where(fold[place][rows] < 0, 1 / folds, 1.0)
                found[place.start + rows] += share * np.linalg.norm(away @ self.root[f], axis=1)
        return found


def _squares(pairs: TrainingPairs, some: np.ndarray) -> Float64s:
    """Σ d dᵀ [d, d] fp64 over some of the pairs."""
    rows, width = np.flatnonzero(some), pairs.features.shape[1]
    total = np.zeros((width, width))
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        apart = (pairs.compared[rows[start : start + PAIRS_AT_ONCE]] @ pairs.features).astype(np.float64)
        total += apart.T @ apart
    return total


def _root(squares: Float64s, ridge: float) -> Float32s:
    """R = L⁻ᵀ [d, d], with L Lᵀ = Σ d dᵀ + λ I."""
    identity = np.eye(len(squares))
    lower = cholesky(squares + ridge * identity, lower=True)
    return np.ascontiguousarray(solve_triangular(lower, identity, lower=True).T, dtype=np.float32)


def _centres(pairs: TrainingPairs, seen: np.ndarray) -> Float32s:
    """Mean features [G, d] of the two responses of the pairs of each cluster."""
    centres = np.zeros((len(pairs.cells), pairs.features.shape[1]), dtype=np.float32)
    cluster = pairs.cluster[pairs.sides[:, 0]]
    for k in np.unique(cluster[seen]):
        rows = pairs.sides[seen & (cluster == k)].ravel()
        centres[k] = _mean(pairs.features, rows)
    return centres


def _mean(features: Float32s, rows: Ints) -> Float64s:
    times = np.bincount(rows, minlength=len(features)).astype(np.float32)
    return np.asarray(times @ features, dtype=np.float64) / len(rows)
