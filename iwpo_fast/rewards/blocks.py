"""Large arrays of features: groups of them side by side, read a block of rows at a time, and standardised."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Ints = NDArray[np.int64]
Groups = tuple[Floats, ...]
"""Groups of features of the same C rows, [C, d_1], [C, d_2], ..., which are read as one array [C, d], d = Σ d_g."""

BLOCK_BYTES = 64 * 2**20

LEAST_CHANGE = 1e-6
"""Standard deviation of a feature that is read, over its mean and over the largest one of its group."""


def float32_blocks(groups: Groups, rows: Ints | None = None) -> Iterator[tuple[slice, Float32s]]:
    """Blocks of the given rows (all if None) in fp32, each with its place in the sequence of rows."""
    count = len(groups[0]) if rows is None else len(rows)
    size = max(1, BLOCK_BYTES // (4 * sum(group.shape[1] for group in groups)))
    for start in range(0, count, size):
        place = slice(start, min(start + size, count))
        inside = place if rows is None else rows[place]
        yield place, np.concatenate([np.asarray(group[inside], dtype=np.float32) for group in groups], axis=1)


def column_moments(groups: Groups, rows: Ints | None = None) -> tuple[Float32s, Float32s]:
    """Mean and standard deviation of every column, [d] fp32, added up in fp64.

    Raises:
        ValueError: a feature is not finite.
    """
    first = np.arange(1) if rows is None else rows[:1]
    _, (shift,) = next(float32_blocks(groups, first))
    total, squares = np.zeros(len(shift)), np.zeros(len(shift))
    for _, block in float32_blocks(groups, rows):
        block = block - shift
        total += block.sum(axis=0, dtype=np.float64)
        squares += np.einsum("nd,nd->d", block, block, dtype=np.float64)
    if not (np.isfinite(total).all() and np.isfinite(squares).all()):
        raise ValueError("Some features are NaN or infinite: look at the model or the precision they were made with.")
    count = len(groups[0]) if rows is None else len(rows)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return (shift + mean).astype(np.float32), deviation.astype(np.float32)


def standardisation(groups: Groups, rows: Ints) -> tuple[Float32s, Float32s]:
    """Mean and scale, [d] fp32, so that f = (x - mean) * scale has mean 0 and E‖f‖² = 1 over the rows.

    Every group of features has an equal share of that square norm, and so has every feature inside its group.
    Otherwise the penalty on the vectors would drown a single feature beside thousands. A feature that never changes has
    scale 0, and so has one that hardly changes beside its mean or beside the others of its group: some encoders leave
    rounding errors of 1e-33, which say nothing, and of which another text has perhaps a thousand times as much.
    """
    mean, deviation = column_moments(groups, rows)
    group = np.repeat(np.arange(len(groups)), [group.shape[1] for group in groups])
    largest = np.array([deviation[group == g].max(initial=0) for g in range(len(groups))], dtype=np.float32)
    live = deviation > LEAST_CHANGE * np.maximum(np.abs(mean), largest[group])
    columns = np.bincount(group[live], minlength=len(groups))
    share = (np.count_nonzero(columns) * columns)[group]
    scale = np.zeros_like(deviation)
    scale[live] = 1 / (deviation[live] * np.sqrt(share[live]))
    return mean, scale
