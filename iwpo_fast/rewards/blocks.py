"""Large arrays of features: side by side, a block at a time, standardised, and in memory sorted by cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

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


@dataclass(frozen=True)
class Standardise:
    """f = (x - mean) * scale, so that every feature has mean 0 and E‖f‖² = 1.

    Every group of features has an equal share of that square norm, and so has every feature inside its group. Otherwise
    the penalty on the vectors would drown a single feature beside thousands.

    Attributes:
        mean: [d] fp32.
        scale: [d] fp32; 0 for a feature that never changes.
    """

    mean: Float32s
    scale: Float32s

    @classmethod
    def fit(cls, features: SideBySide, rows: NDArray[np.int64]) -> Standardise:
        mean, deviation = column_moments(features, rows)
        live = deviation > 1e-6 * np.abs(mean)
        group = np.repeat(np.arange(len(features.widths)), features.widths)
        columns = np.bincount(group[live], minlength=len(features.widths))
        share = (np.count_nonzero(columns) * columns)[group]
        scale = np.zeros_like(deviation)
        scale[live] = 1 / (deviation[live] * np.sqrt(share[live]))
        return cls(mean, scale)

    def __call__(self, block: Float32s) -> Float32s:
        return (block - self.mean) * self.scale


@dataclass(frozen=True)
class FeatureMatrix:
    """X [n, d] fp32, 4nd bytes; the rows of cluster k are `cells[k]`."""

    values: Float32s
    cells: list[slice]

    @classmethod
    def read(
        cls,
        features: SideBySide,
        rows: NDArray[np.int64],
        cluster: NDArray[np.int64],
        clusters: int,
        units: Standardise,
    ) -> FeatureMatrix:
        """Read `features[rows]`; `cluster` of these rows must be sorted."""
        values = np.empty((len(rows), features.shape[1]), dtype=np.float32)
        for place, block in float32_blocks(features, rows):
            values[place] = units(block)
        bounds = np.searchsorted(cluster, np.arange(clusters + 1))
        return cls(values, [slice(int(a), int(b)) for a, b in pairwise(bounds)])

    def times(self, vectors: Float32s) -> Float32s:
        """Rewards [n, m]: every row by the vectors [G, d, m] of its cluster, or by the one [1, d, m] of all."""
        if len(vectors) == 1:
            return self.values @ vectors[0]
        return np.concatenate([self.values[cell] @ own for cell, own in zip(self.cells, vectors, strict=True)])

    def transposed_times(self, slopes: Float32s, parts: int) -> Float32s:
        """The adjoint of `times`: from [n, m] to [parts, d, m], where `parts` is G or 1."""
        if parts == 1:
            return (self.values.T @ slopes)[None]
        return np.stack([self.values[cell].T @ slopes[cell] for cell in self.cells])
