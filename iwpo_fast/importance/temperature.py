"""The temperature that keeps the effective sample size."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from iwpo_fast.importance.effective_size import ess_fraction, is_large

COLDEST, HOTTEST = 0.5, 100.0
STEPS, HALVINGS = 16, 8  # steps of 40 %, refined to 0.2 %


def smallest_temperature(
    weights: Callable[[float], np.ndarray], cluster: np.ndarray, clusters: int, *, target: float, spread: float
) -> float:
    """The smallest τ from 0.5 up that keeps the effective sample size of every large cluster at `target` or more.

    Found on a geometric grid, since with γ > 0 the size need not grow with τ, then refined by bisection between the
    first grid point that keeps it and the one before. The grid ends at 100 or, if that is more, 100 times the spread of
    the rewards: there importance differs by a few per cent, so that only γ can make the search fail.

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
