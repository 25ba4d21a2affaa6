"""From log-weights to weights of mean 1 in each cluster."""

from __future__ import annotations

import numpy as np


def normalise(
    log_weight: np.ndarray, cluster: np.ndarray, clusters: int, *, truncate: float, defensive: float
) -> np.ndarray:
    """Self-normalise per cluster to mean 1, cut at `truncate`, renormalise once, mix with uniform weights.

    Normalising per cluster keeps the proportions of tasks. The second normalisation can lift a weight above `truncate`
    again. Cutting large weights: Ionides 2008; the defensive mixture (1 - η) ω + η: Hesterberg 1995.

    Args:
        log_weight: float64 [P]; -inf for weight 0, but not for a whole cluster.
        cluster: int64 [P] in 0..clusters-1.
        truncate: largest weight, as a multiple of the mean; inf cuts nothing.
        defensive: η in [0, 1].

    Returns:
        float64 [P], non-negative.
    """
    top = np.full(clusters, -np.inf)
    np.maximum.at(top, cluster, log_weight)
    weight = _mean_one(np.exp(log_weight - top[cluster]), cluster, clusters)
    weight = _mean_one(np.minimum(weight, truncate), cluster, clusters)
    return weight + defensive * (1 - weight)


def _mean_one(weight: np.ndarray, cluster: np.ndarray, clusters: int) -> np.ndarray:
    size = np.bincount(cluster, minlength=clusters)
    mean = np.bincount(cluster, weight, clusters) / np.maximum(size, 1)
    return weight / mean[cluster]
