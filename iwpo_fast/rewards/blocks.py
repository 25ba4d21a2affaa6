"""Reading large arrays of features, alone or side by side, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Float32s = NDArray[np.float32]

BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class SideBySide:
    """Groups of features of the same C rows, [C, d_1], [C, d_2], ..., read as one array [C, Σ d_g]."""

    groups: tuple[Floats, ...]

    @property
    def widths(self) -> list[int]:
        return [group.shape[1] for group in self.groups]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), sum(self.widths)

    def __len__(self) -> int:
        return len(self.groups[0])

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Float32s:
        return np.concatenate([np.asarray(group[rows], dtype=np.float32) for group in self.groups], axis=1)


def float32_blocks(
    features: Floats | SideBySide, rows: NDArray[np.int64] | None = None
) -> Iterator[tuple[slice, Float32s]]:
    """Blocks of `features[rows]` (all rows if None) in fp32, each with its place in the sequence of rows."""
    count = len(features) if rows is None else len(rows)
    size = max(1, BLOCK_BYTES // (4 * features.shape[1]))
    for start in range(0, count, size):
        place = slice(start, min(start + size, count))
        yield place, np.asarray(features[place] if rows is None else features[rows[place]], dtype=np.float32)


def column_moments(features: Floats | SideBySide, rows: NDArray[np.int64] | None = None) -> tuple[Float32s, Float32s]:
    """Mean and standard deviation of every column, [d] fp32, added up in fp64.

    Raises:
        ValueError: if a feature is not finite.
    """
    count = len(features) if rows is None else len(rows)
    total = np.zeros(features.shape[1])
    squares = np.zeros(features.shape[1])
    shift = np.asarray(features[slice(1) if rows is None else rows[:1]], dtype=np.float32)[0]
    for _, block in float32_blocks(features, rows):
        block = block - shift
        total += block.sum(axis=0, dtype=np.float64)
        squares += np.einsum("nd,nd->d", block, block, dtype=np.float64)
    mean = total / count
    if not (np.isfinite(total).all() and np.isfinite(squares).all()):
        raise ValueError("Some features are NaN or infinite: look at the model or the precision they were made with.")
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return (shift + mean).astype(np.float32), deviation.astype(np.float32)
