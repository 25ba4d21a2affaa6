from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from iwpo_fast.rewards import kmeans as module
from iwpo_fast.rewards.kmeans import available_backends, choose_backend, kmeans


def points(count: int = 3000, features: int = 16) -> np.ndarray:
    draw = np.random.default_rng(0).standard_normal((count, features)).astype(np.float32)
    return draw / np.linalg.norm(draw, axis=1, keepdims=True)


def distances(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return ((x[:, None] - centroids) ** 2).sum(axis=2)


@pytest.fixture(scope="module")
def lloyd() -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm, written out, from the same start as all backends."""
    from sklearn.cluster import kmeans_plusplus

    x = points()
    centroids, _ = kmeans_plusplus(x, 6, random_state=5)
    for _ in range(300):
        nearest = distances(x, centroids).argmin(axis=1)
        centroids = np.stack([x[nearest == k].mean(axis=0) for k in range(6)])
    return x, centroids


@pytest.mark.slow
@pytest.mark.parametrize("backend", available_backends())
def test_a_backend_conforms(backend, lloyd) -> None:
    x, expected = lloyd
    found = kmeans(x, 6, backend=backend, seed=5)
    assert found.shape == (6, 16)
    assert found.dtype == np.float32
    assert (found == kmeans(x, 6, backend=backend, seed=5)).all()
    inertia, least = (distances(x, centroids).min(axis=1).sum() for centroids in (found, expected))
    assert inertia == pytest.approx(least, rel=0.01)
    nearest = distances(x, found).argmin(axis=1)
    means = np.stack([x[nearest == k].mean(axis=0) for k in range(6)])
    assert np.abs(means - found).max() < 0.02


def test_what_flash_kmeans_finds_is_made_exact_by_one_step(monkeypatch, lloyd) -> None:
    """A stand-in rounds the solution as TF32 does, and adds a centroid that no point is near to."""
    x, expected = lloyd
    rounded = (expected.astype(np.float32).view(np.int32) & ~0x1FFF).view(np.float32)
    far = np.full((1, 16), 9, dtype=np.float32)

    def batch_kmeans_Euclid(points, count, *, max_iters, tol, init_centroids) -> tuple[None, Tensor, int]:
        assert points.shape == (1, *x.shape) and init_centroids.shape == (1, count, 16)
        return None, torch.from_numpy(np.concatenate([rounded, far]))[None], max_iters

    monkeypatch.setitem(sys.modules, "flash_kmeans", SimpleNamespace(batch_kmeans_Euclid=batch_kmeans_Euclid))
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr("iwpo_fast.rewards.blocks.BLOCK_BYTES", 4 * 16 * 700)  # the last of five blocks is shorter
    found = kmeans(x, 6, backend="flash-kmeans", seed=5)
    assert np.abs(rounded - expected).max() > 1e-4
    assert np.abs(found[:6] - expected).max() <= 1e-6
    assert (found[6] == far[0]).all()


def test_the_fastest_backend_of_the_machine_is_chosen(monkeypatch) -> None:
    installed = {"cuml", "flash_kmeans"}
    monkeypatch.setattr(module, "find_spec", lambda name: name in installed)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_backend("auto") == "sklearn"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_backend("auto") == "flash-kmeans"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert choose_backend("auto") == "cuml"
    assert choose_backend("sklearn") == "sklearn"
    installed.clear()
    assert choose_backend("auto") == "sklearn"


@pytest.mark.parametrize(("name", "extra"), [("cuml", "cuml12 or cuml13"), ("flash-kmeans", "extra flash-kmeans")])
def test_a_backend_that_is_missing_says_what_it_needs(name, extra, monkeypatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=extra):
        choose_backend(name)


def test_a_backend_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no k-means backend 'faiss'"):
        choose_backend("faiss")
