"""Clusters of prompts (step 2 of MCRM): cells of spherical k-means, or those of gates that were learnt with rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from iwpo_fast.config import ClusterConfig
from iwpo_fast.files import load_tensors, save_tensors
from iwpo_fast.limits import check_limits
from iwpo_fast.rewards.blocks import Float32s, Float64s, Floats, Ints, column_moments, float32_blocks
from iwpo_fast.rewards.kmeans import choose_backend, kmeans


@dataclass(frozen=True)
class Clusters:
    """Cells of the unit sphere of centred prompt features, some of them merged.

    Attributes:
        mean: [d] fp32, subtracted from features.
        centroids: [K, d] fp32 of norm 1; a prompt belongs to the centroid of highest cosine.
        merged: [K] int64, cluster of every centroid.
    """

    mean: Float32s
    centroids: Float32s
    merged: Ints

    @property
    def count(self) -> int:
        return int(self.merged.max()) + 1

    @property
    def folds(self) -> int:
        """Folds of prompts that have gates of their own; 0 where labels had no part in the clusters."""
        return 0

    def assign(self, features: Floats, fold: Ints | None = None) -> Ints:
        """Clusters [n] int64, from 0 to `count` - 1, of prompt features [n, d].

        Args:
            fold: [n] int64, of prompts that the clusters were learnt from, -1 for others; None if all are others.
        """
        return self.merged[self.cells(features, fold)]

    def cells(self, features: Floats, fold: Ints | None = None) -> Ints:
        """The same before cells were merged: [n] int64, from 0 to K - 1."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(
                f"Prompt features of shape {features.shape} cannot be assigned to clusters of {len(self.mean)} "
                "features: take features of the model that the clusters were fitted on."
            )
        nearest = np.empty(len(features), dtype=np.int64)
        for place, block in float32_blocks((features,)):
            nearest[place] = self._cells(block - self.mean, None if fold is None else fold[place])
        return nearest

    def _cells(self, centred: Float32s, fold: Ints | None) -> Ints:
        return (centred @ self.centroids.T).argmax(axis=1)

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        save_tensors(path, {name: torch.from_numpy(array) for name, array in vars(self).items()})

    @staticmethod
    def load(path: Path) -> Clusters:
        return Clusters.of_arrays(load_tensors(path))

    @staticmethod
    def of_arrays(arrays: Mapping[str, np.ndarray]) -> Clusters:
        """From the attributes of clusters of either kind."""
        return GatedClusters(**arrays) if "offset" in arrays else Clusters(**arrays)


@dataclass(frozen=True)
class GatedClusters(Clusters):
    """Cells of linear gates: a prompt belongs to the row of W (x - mean) + b that is the greatest.

    Labels had a part in the gates. So a prompt that they were learnt from meets the gate of its fold, which has not
    seen the fold's labels; any other prompt meets the gate that has seen all.

    Attributes:
        centroids: W [F + 1, K, d] fp32, of the F folds, then of all pairs.
        offset: b [F + 1, K] fp32.
    """

    offset: Float32s

    @property
    def folds(self) -> int:
        return len(self.offset) - 1

    def _cells(self, centred: Float32s, fold: Ints | None) -> Ints:
        gate = np.full(len(centred), -1) if fold is None else fold
        cells = np.empty(len(centred), dtype=np.int64)
        for g in np.unique(gate):
            rows = gate == g
            cells[rows] = (centred[rows] @ self.centroids[g].T + self.offset[g]).argmax(axis=1)
        return cells


def fit_clusters(prompt_features: Floats, pairs_per_prompt: Ints, settings: ClusterConfig, *, seed: int) -> Clusters:
    """Cluster prompts by direction of their centred features.

    Lloyd's iterations run on points of norm 1, and the centroids are then projected back onto the sphere. They are
    fitted on `settings.fit_prompts` random prompts at most; the mean is that of all.

    Args:
        prompt_features: [M, d], any float type, perhaps memory-mapped.
        pairs_per_prompt: [M] int64; clusters with fewer than `settings.min_pairs` pairs are merged into the nearest.
        seed: of the sub-sample and of k-means++.

    Raises:
        ValueError: the shapes do not fit, a setting cannot be, or the backend is not there.
    """
    if prompt_features.ndim != 2 or pairs_per_prompt.shape != prompt_features.shape[:1] or not len(prompt_features):
        raise ValueError(
            f"Prompt features {prompt_features.shape} and pairs per prompt {pairs_per_prompt.shape} do not fit: give "
            "one row of features and one number of pairs for each prompt."
        )
    check_limits(settings, "clusters")
    backend = choose_backend(settings.backend)
    mean, _ = column_moments((prompt_features,))
    points = _directions(prompt_features, mean, sample_rows(len(prompt_features), settings.fit_prompts, seed))
    centroids = unit(kmeans(points, min(settings.count, len(points)), backend=backend, seed=seed))
    cells = Clusters(mean, centroids, np.arange(len(centroids)))
    pairs = np.zeros(len(centroids))
    np.add.at(pairs, cells.assign(prompt_features), pairs_per_prompt)
    return Clusters(mean, centroids, merge_small(centroids, pairs, settings.min_pairs))


def merge_small(centroids: Float32s, pairs: Float64s, min_pairs: int) -> Ints:
    """Cluster [K] int64 of every centroid, after the smallest have joined their nearest until none is too small.

    A cluster's own direction is the mean of its centroids, weighted by their pairs.
    """
    groups = [[k] for k in range(len(centroids))]
    while len(groups) > 1:
        sizes = [pairs[group].sum() for group in groups]
        smallest = int(np.argmin(sizes))
        if sizes[smallest] >= min_pairs:
            break
        directions = unit(np.stack([(pairs[group] + 1e-6) @ centroids[group] for group in groups]))
        cosines = directions @ directions[smallest]
        cosines[smallest] = -np.inf
        groups[int(cosines.argmax())] += groups[smallest]
        del groups[smallest]
    merged = np.empty(len(centroids), dtype=np.int64)
    for label, group in enumerate(groups):
        merged[group] = label
    return merged


def sample_rows(count: int, limit: int, seed: int) -> Ints:
    """At most `limit` of `count` rows, [n] int64 in order, at random where there are more."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))


def _directions(features: Floats, mean: Float32s, rows: Ints) -> Float32s:
    points = np.empty((len(rows), features.shape[1]), dtype=np.float32)
    for place, block in float32_blocks((features,), rows):
        points[place] = unit(block - mean)
    return points


def unit(vectors: NDArray[np.floating]) -> Float32s:
    """Rows [n, d] of norm 1."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)
