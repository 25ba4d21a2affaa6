"""The response features that heads are trained on: standardised, in memory, sorted by cluster."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.rewards.blocks import Float32s, SideBySide, column_moments, float32_blocks


@dataclass(frozen=True)
class Standardise:
    """f = (x - mean) * scale, so that every feature has mean 0 and E‖f‖² = 1.

    Every group of features has an equal share of that, and so has every feature inside its group: a single one beside
    thousands is not drowned by the penalty, which falls on its vector.

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
