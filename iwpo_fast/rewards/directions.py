"""The directions in which features vary most, where there are too many of them."""

from __future__ import annotations

import numpy as np

from iwpo_fast.rewards.blocks import Float32s

DIRECTIONS = 256
"""Directions of the features that networks and gates read, those of most variance; all of fewer."""
ROWS_FOR_DIRECTIONS = 8192


def directions(features: Float32s, seed: int) -> Float32s:
    """P [d, p]: principal directions of standardised features [n, d], scaled so that E‖Pᵀf‖² = p.

    They are found in `ROWS_FOR_DIRECTIONS` random rows, by a randomised singular value decomposition (Halko,
    Martinsson and Tropp, arXiv 0909.4061).
    """
    from sklearn.utils.extmath import randomized_svd

    draw = np.random.default_rng(seed)
    some = features
    if len(features) > ROWS_FOR_DIRECTIONS:
        some = features[np.sort(draw.choice(len(features), ROWS_FOR_DIRECTIONS, replace=False))]
    width = features.shape[1]
    found = np.eye(width, dtype=np.float32)
    if width > DIRECTIONS and len(some) > DIRECTIONS:
        found = randomized_svd(some, DIRECTIONS, n_iter=2, random_state=seed)[2].T
    size = np.square(some @ found).sum(axis=1, dtype=np.float64).mean()
    return np.ascontiguousarray(found * np.sqrt(found.shape[1] / max(size, 1e-12)), dtype=np.float32)
