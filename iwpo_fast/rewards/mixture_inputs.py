"""What a mixture learns from: features of prompts and of pairs, each in the directions in which they vary most."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iwpo_fast.config import RewardConfig
from iwpo_fast.rewards.blocks import Float32s, Float64s, Groups, Ints, float32_blocks, standardisation
from iwpo_fast.rewards.clusters import Clusters
from iwpo_fast.rewards.directions import directions
from iwpo_fast.rewards.mixture import LabelledPrompts
from iwpo_fast.rewards.pair_table import PairFeatures, PairTable
from iwpo_fast.rewards.scores import fold_count, folds_for, groups_for


class Inputs(NamedTuple):
    """What mixtures learn from, and how their gates read prompt features.

    Attributes:
        examples: M prompts, with features in the directions of most variance.
        mean: [d] fp32, of prompt features.
        basis: [d, p] fp32, from centred prompt features to those of `examples`.
        cells: [M] int64, by k-means, from 0 to K - 1.
        fold: [M] int64, from 0 to `folds` - 1.
        folds: F.
    """

    examples: LabelledPrompts
    mean: Float32s
    basis: Float32s
    cells: Ints
    fold: Ints
    folds: int

    def start(self) -> Float64s:
        """Responsibilities [M, K] that say what k-means says."""
        return np.eye(int(self.cells.max()) + 1)[self.cells]


def read_inputs(
    features: PairFeatures, settings: RewardConfig, by_kmeans: Clusters, rows: Ints, *, seed: int
) -> Inputs:
    """Of the prompts `rows` [M] and their pairs: 4 (M d + P q) bytes of memory while directions are looked for."""
    row = np.full(len(features.prompt), -1)
    row[rows] = np.arange(len(rows))
    pairs = np.flatnonzero(row[features.table.prompt] >= 0)
    mean, scale = standardisation((features.prompt,), rows)
    prompts = np.empty((len(rows), len(mean)), dtype=np.float32)
    for place, block in float32_blocks((features.prompt,), rows):
        prompts[place] = (block - mean) * scale
    basis = _basis(prompts, seed)
    gaps = _gaps(groups_for(features, settings), features.table, pairs)
    return Inputs(
        examples=LabelledPrompts.of(prompts @ basis, gaps @ _basis(gaps, seed), row[features.table.prompt[pairs]]),
        mean=mean,
        basis=scale[:, None] * basis,
        cells=by_kmeans.cells(features.prompt[rows]),
        fold=folds_for(features, len(features.prompt), settings, seed)[rows],
        folds=fold_count(settings),
    )


def _gaps(groups: Groups, table: PairTable, pairs: Ints) -> Float32s:
    """Standardised features of chosen responses minus those of rejected ones, [P, q]."""
    chosen, rejected = table.chosen[pairs], table.rejected[pairs]
    _, scale = standardisation(groups, np.unique(np.concatenate([chosen, rejected])))
    gaps = np.empty((len(pairs), len(scale)), dtype=np.float32)
    both = zip(float32_blocks(groups, chosen), float32_blocks(groups, rejected), strict=True)
    for (place, plus), (_, minus) in both:
        gaps[place] = (plus - minus) * scale
    return gaps


def _basis(values: Float32s, seed: int) -> Float32s:
    """[d, p], onto the directions of most variance, with a mean square norm of 1."""
    found = directions(values, seed)
    return found / np.float32(np.sqrt(found.shape[1]))
