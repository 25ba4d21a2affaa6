"""Weights as counts: how often each pair is drawn."""

from __future__ import annotations

import numpy as np


def systematic_counts(weight: np.ndarray, cluster: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw each pair ⌊ω⌋ or ⌈ω⌉ times, ω times in expectation, from one random number (Kitagawa 1996).

    Each cluster keeps its number of pairs where its weights have mean 1. Pairs are taken in random order inside their
    cluster, so that regularities of the data's order do not matter.

    Args:
        weight: float64 [P], non-negative.
        cluster: int64 [P].

    Returns:
        int64 [P].
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(weight))
    order = order[np.argsort(cluster[order], kind="stable")]
    floor = np.floor(weight)
    passed = np.floor(np.cumsum(np.concatenate([[rng.random()], (weight - floor)[order]])))
    counts = floor.astype(np.int64)
    counts[order] += np.diff(passed).astype(np.int64)
    return counts
