"""Reading large arrays of features a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Float32s = NDArray[np.float32]

BLOCK_BYTES = 64 * 2**20


def float32_blocks(features: Floats, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[slice, Float32s]]:
    """Blocks of `features[rows]` (all rows if None) in fp32, each with its place in the sequence of rows."""
    count = len(features) if rows is None else len(rows)
    size = max(1, BLOCK_BYTES // (4 * features.shape[1]))
    for start in range(0, count, size):
        place = slice(start, min(start + size, count))
        yield place, np.asarray(features[place] if rows is None else features[rows[place]], dtype=np.float32)


def column_moments(features: Floats, rows: NDArray[np.int64] | None = None) -> tuple[Float32s, Float32s]:
    """Mean and standard deviation of every column, [d] fp32, added up in fp64.

    Raises:
        ValueError: if a feature is not finite.
    """
    count = len(features) if rows is None else len(rows)
    total = np.zeros(features.shape[1])
    squares = np.zeros(features.shape[1])
    shift = np.asarray(features[0 if rows is None else rows[0]], dtype=np.float32)
    for _, block in float32_blocks(features, rows):
        block = block - shift
        total += block.sum(axis=0, dtype=np.float64)
        squares += np.einsum("nd,nd->d", block, block, dtype=np.float64)
    mean = total / count
    if not (np.isfinite(total).all() and np.isfinite(squares).all()):
        raise ValueError("Some features are NaN or infinite: look at the model or the precision they were made with.")
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return (shift + mean).astype(np.float32), deviation.astype(np.float32)
