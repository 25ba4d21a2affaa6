"""The mixture of the types' policies that is least bad for the worst off: a zero-sum game, solved by learning.

    L_ij = mean over prompts of log π_i(y_j | x) - log π_ref(y_j | x), y_j of policy j
    R_ij = c_i (L_ii - L_ij), and a row of zeros        w = argmin over the simplex of max_i Σ_j R_ij w_j

An answer is drawn from policy j with probability w_j. After Chidambaram et al. (arXiv 2405.15065) and their code: both
players follow optimistic multiplicative weights, and w is the mean of what the minimiser played.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEPS = 100_000
RATE = 5.0
"""Of the players, divided by the root of the steps."""


def regrets(gains: Floats, scale: Sequence[float]) -> Floats:
    """R [K + 1, K], in nats; the first row is of nobody, who regrets nothing.

    Args:
        gains: L [K, K].
        scale: c [K], how much the regret of each type counts.
    """
    own = np.asarray(scale)[:, None] * (np.diag(gains)[:, None] - gains)
    return np.concatenate([np.zeros((1, len(gains))), own])


def least_regret(regret: Floats, steps: int = STEPS) -> Floats:
    """w [K], which sums to 1.

    The game is divided by its largest entry, which moves no solution: rates are for losses of about 1, and a regret of
    hundreds of nats would throw the players from corner to corner.

    Args:
        regret: R [n, K].
        steps: of both players; the worst regret is then above the least one by an order of 1/√steps of the largest.
    """
    game = regret / (np.abs(regret).max() or 1.0)
    rate = RATE / np.sqrt(steps)
    row, column = (np.full(size, 1 / size) for size in game.shape)
    last_row, last_column, total = row, column, np.zeros_like(column)
    for _ in range(steps):
        total += column
        rows, columns = 2 * column - last_column, 2 * row - last_row  # what is expected next: as before, and its trend
        last_row, last_column = row, column
        row, column = _scaled(row, rate * (game @ rows)), _scaled(column, -rate * (columns @ game))
    return total / steps


def worst(regret: Floats, mixture: Floats) -> float:
    """max_i Σ_j R_ij w_j, in nats."""
    return float((regret @ mixture).max())


def _scaled(shares: Floats, logits: Floats) -> Floats:
    scaled = shares * np.exp(logits)
    return scaled / scaled.sum()
