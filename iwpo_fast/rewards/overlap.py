"""Comparisons across the pairs of a cluster, whose logistic loss is a surrogate of the overlap of its rewards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PARTNERS = 32


def partners(cluster: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Ordered pairs (i, j), i ≠ j, of one cluster: all of them in a small one.

    With more than `PARTNERS` other pairs, each i takes as many of the j, those that follow it in a random order of the
    cluster at fixed random distances, so that every pair is a partner equally often.

    Args:
        cluster: [P] int64.

    Returns:
        i and j, [T] int64 each, and for how many pairs (i, j) each of them stands, [T].
    """
    generator = np.random.default_rng(seed)
    first, second, stands_for = [], [], []
    for k in np.unique(cluster):
        members = generator.permutation(np.flatnonzero(cluster == k))
        count = len(members)
        distances = np.arange(1, count)
        if len(distances) > PARTNERS:
            distances = generator.choice(distances, PARTNERS, replace=False)
        first.append(np.repeat(members, len(distances)))
        second.append(members[(np.arange(count)[:, None] + distances).ravel() % count])
        stands_for.append(np.full(len(first[-1]), (count - 1) / max(1, len(distances))))
    return np.concatenate(first), np.concatenate(second), np.concatenate(stands_for)
