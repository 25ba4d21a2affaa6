"""Effective sample size, and the clusters that are large enough to be judged by it."""

from __future__ import annotations

import numpy as np

LARGE_CLUSTER = 256
"""Pairs from which a cluster is large: the default of `ClusterConfig.min_pairs`.

It does not follow the setting: how far an effective sample size of few pairs can be judged has nothing to do with which
clusters were merged.
"""


def ess_fraction(weight: np.ndarray, cluster: np.ndarray, clusters: int) -> tuple[float, np.ndarray]:
    """Effective sample size (Σω)²/Σω² (Kish 1965) as a fraction of the pairs.

    Args:
        weight: float64 [P], non-negative, not all 0 in any cluster.
        cluster: int64 [P] in 0..clusters-1.

    Returns:
        That of all pairs, and float64 [clusters] that of each; NaN for a cluster without pairs.
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
