"""K-means behind one interface: Lloyd's iterations from given centroids, on whatever runs them fastest here."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch

from iwpo_fast.rewards.blocks import Float32s, float32_blocks

Backend = Literal["cuml", "flash-kmeans", "sklearn"]

MAX_ITERATIONS = 300
TOLERANCE = 1e-4
LLOYD = {"n_init": 1, "max_iter": MAX_ITERATIONS, "tol": TOLERANCE}


def available_backends() -> list[Backend]:
    """The backends that can run on this machine, the preferred one first."""
    backends: list[Backend] = ["sklearn"]
    if torch.cuda.is_available() and find_spec("flash_kmeans"):
        backends.insert(0, "flash-kmeans")
    if torch.cuda.is_available() and torch.version.cuda and find_spec("cuml"):
        backends.insert(0, "cuml")
    return backends


def choose_backend(name: Backend | Literal["auto"]) -> Backend:
    """`name` itself, or the preferred backend for `auto`.

    Raises:
        ValueError: the backend cannot run here.
    """
    available = available_backends()
    if name == "auto":
        return available[0]
    if name not in BACKENDS:
        raise ValueError(f"There is no k-means backend {name!r}: take auto, {', '.join(BACKENDS)}.")
    if name not in available:
        raise ValueError(
            f"The k-means backend {name} needs {NEEDS[name]}, which is not here: install it, or set backend: auto."
        )
    return name


def kmeans(points: Float32s, count: int, *, backend: Backend, seed: int) -> Float32s:
    """Centroids [count, d] of points [n, d], both fp32; fewer where fewer points are distinct.

    All backends start at the same k-means++ centroids and do the same iterations, so that they agree up to rounding.
    """
    from sklearn.cluster import kmeans_plusplus

    start, _ = kmeans_plusplus(points, count, random_state=seed)
    return np.asarray(BACKENDS[backend](points, np.unique(start, axis=0), seed), dtype=np.float32)


def _sklearn(points: Float32s, start: Float32s, seed: int) -> Float32s:
    from sklearn.cluster import KMeans

    return KMeans(len(start), init=start, random_state=seed, **LLOYD).fit(points).cluster_centers_


def _cuml(points: Float32s, start: Float32s, seed: int) -> Float32s:
    from cuml.cluster import KMeans

    model = KMeans(n_clusters=len(start), init=start, random_state=seed, output_type="numpy", **LLOYD)
    return model.fit(points).cluster_centers_


def _flash_kmeans(points: Float32s, start: Float32s, seed: int) -> Float32s:
    from flash_kmeans import batch_kmeans_Euclid

    x = torch.from_numpy(points).cuda()[None]
    init = torch.from_numpy(start).cuda()[None]
    _, centroids, _ = batch_kmeans_Euclid(x, len(start), max_iters=MAX_ITERATIONS, tol=TOLERANCE, init_centroids=init)
    return _lloyd_step(points, centroids[0].float().cpu().numpy())


def _lloyd_step(points: Float32s, centroids: Float32s) -> Float32s:
    """The mean of the points nearest to each centroid, or the centroid where there are none.

    flash-kmeans measures distances in TF32 and returns the centroids of the iteration before its last.
    """
    sums, sizes = np.zeros(centroids.shape), np.zeros(len(centroids))
    for _, block in float32_blocks((points,)):
        nearest = (block @ centroids.T - 0.5 * (centroids**2).sum(axis=1)).argmax(axis=1)
        member = np.eye(len(centroids))[nearest]
        sums += member.T @ block
        sizes += member.sum(axis=0)
    means = sums / np.maximum(sizes, 1)[:, None]
    return np.where(sizes[:, None] > 0, means, centroids).astype(np.float32)


BACKENDS: dict[Backend, Callable[[Float32s, Float32s, int], Float32s]] = {
    "cuml": _cuml,
    "flash-kmeans": _flash_kmeans,
    "sklearn": _sklearn,
}
NEEDS: dict[Backend, str] = {
    "cuml": "an NVIDIA GPU and the extra cuml12 or cuml13",
    "flash-kmeans": "a GPU and the extra flash-kmeans",
    "sklearn": "scikit-learn",
}
