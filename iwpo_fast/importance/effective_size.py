"""How many of the pairs a set of weights uses: the formula, the target, and the temperature that keeps it.

Rewards teach a policy something new where pairs are few or labels noisy. There the members of an ensemble, which learnt
from bootstraps of the pairs, disagree. Where they agree there are pairs enough, and weights cost more than they bring.
So the target follows the noise of the rewards. That rule is this project's own; its constants were chosen in the
laboratory of `lab/exact`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from iwpo_fast.config import EVEN

LARGE_CLUSTER = 256
"""Pairs from which a cluster is large: the default of `ClusterConfig.min_pairs`.

It does not follow the setting, because how far an effective sample size of few pairs can be judged has nothing to do
with which clusters were merged."""

PLENTY, SLOPE = 0.08, 3.0
LOWEST, UNKNOWN = 0.5, 0.9

COLDEST, HOTTEST = 0.5, 100.0
STEPS, HALVINGS = 16, 8  # steps of 40 %, refined to 0.2 %


def ess_fraction(weight: np.ndarray, cluster: np.ndarray, clusters: int) -> tuple[float, np.ndarray]:
    """Effective sample size (Σω)²/Σω² (Kish 1965) as a fraction of the pairs.

    Args:
        weight: float64 [P], non-negative, not all 0 in any cluster.
        cluster: int64 [P] in 0..clusters-1.

    Returns:
        For all pairs together, and float64 [clusters] for each cluster; NaN for a cluster without pairs.
    """
    size = np.bincount(cluster, minlength=clusters).astype(np.float64)
    total = np.bincount(cluster, weight, clusters)
    squares = np.bincount(cluster, weight * weight, clusters)
    with np.errstate(invalid="ignore"):
        each = total**2 / (size * squares)
    return float(total.sum() ** 2 / (len(weight) * squares.sum())), each


def is_large(pairs: np.ndarray) -> np.ndarray:
    """bool [G]: clusters of `LARGE_CLUSTER` pairs or more; if there is none, the largest."""
    return pairs >= min(LARGE_CLUSTER, int(pairs.max()))


def noise_share(gaps: np.ndarray) -> float | None:
    """Mean variance of a reward gap among members over the mean square of their mean gap.

    Args:
        gaps: float64 [P, M], reward gap of each pair by each member of an ensemble.

    Returns:
        None for fewer than two members; 0 where the mean gap of every pair is 0.
    """
    if gaps.shape[1] < 2:
        return None
    square = float(np.square(gaps.mean(axis=1)).mean())
    return float(gaps.var(axis=1, ddof=1).mean()) / square if square else 0.0


def effective_size_for(noise: float | None) -> float:
    """Target for a noise share: 1 - SLOPE (noise - PLENTY), at least LOWEST; UNKNOWN for unknown noise.

    From EVEN on it is 1, because weights that are so nearly even are not worth a temperature.
    """
    if noise is None:
        return UNKNOWN
    size = max(LOWEST, 1 - SLOPE * (noise - PLENTY))
    return size if size < EVEN else 1.0


def smallest_temperature(
    weights: Callable[[float], np.ndarray], cluster: np.ndarray, clusters: int, *, target: float, spread: float
) -> float:
    """The smallest τ from 0.5 up that keeps the effective sample size of every large cluster at `target` or more.

    With γ > 0 the size need not grow with τ, so a geometric grid is searched first. Bisection then refines between the
    first grid point that keeps the target and the one before. The grid ends at 100 or, if that is more, at 100 times
    the spread of the rewards: there importance differs by a few per cent, so that only γ can make the search fail.

    Args:
        weights: weights [P], mean 1 in each cluster, at a temperature.
        cluster: int64 [P] in 0..clusters-1.
        target: fraction of the pairs in (0, 0.99).
        spread: largest minus smallest of all rewards in the weights, times 1 + |λ|.

    Raises:
        ValueError: no temperature on the grid keeps it.
    """
    large = is_large(np.bincount(cluster, minlength=clusters))

    def keeps(tau: float) -> bool:
        return bool(np.all(ess_fraction(weights(tau), cluster, clusters)[1][large] >= target))

    grid = np.geomspace(COLDEST, HOTTEST, STEPS).tolist()
    while grid[-1] < HOTTEST * spread:
        grid.append(grid[-1] * grid[1] / grid[0])
    first = next((step for step, tau in enumerate(grid) if keeps(tau)), None)
    if first is None:
        raise ValueError(
            f"No weights.tau in [{COLDEST:g}, {grid[-1]:.3g}] keeps an effective sample size of {target:.1%} in every "
            "large cluster: lower weights.ess_target, weights.gamma or weights.truncate, or set weights.tau."
        )
    if first == 0:
        return COLDEST
    low, high = grid[first - 1], grid[first]
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high
