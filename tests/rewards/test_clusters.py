from __future__ import annotations

import numpy as np
import pytest
from reward_worlds import make_world

from iwpo_fast.config import ClusterConfig
from iwpo_fast.rewards import Clusters, blocks, fit_clusters
from iwpo_fast.rewards.clusters import merge_small

WORLD = make_world(pairs=1500, clusters=4)
FEATURES = WORLD.prompt_features
ONE_EACH = np.ones(len(FEATURES), dtype=np.int64)


def fit(features=FEATURES, pairs=ONE_EACH, seed=0, **settings) -> Clusters:
    return fit_clusters(features, pairs, ClusterConfig(**{"count": 4, "min_pairs": 1} | settings), seed=seed)


def same_partition(left: np.ndarray, right: np.ndarray) -> bool:
    joint = len(set(zip(left.tolist(), right.tolist(), strict=True)))
    return joint == len(set(left.tolist())) == len(set(right.tolist()))


def test_separate_groups_are_found() -> None:
    assert same_partition(fit().assign(FEATURES), WORLD.cluster)


def test_the_same_seed_gives_the_same_clusters() -> None:
    first, second = fit(count=7, seed=3), fit(count=7, seed=3)
    assert (first.centroids == second.centroids).all()


def test_scale_and_shift_of_features_change_no_assignment() -> None:
    assert (fit().assign(FEATURES) == fit(3 * FEATURES + 5).assign(3 * FEATURES + 5)).all()


def test_half_precision_on_disk_is_assigned_like_single_precision_in_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100 * 4 * FEATURES.shape[1])
    np.save(tmp_path / "features.npy", FEATURES.astype(np.float16))
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert same_partition(fit(features).assign(features), fit().assign(FEATURES))


def test_blocks_change_no_assignment_and_are_never_larger_than_they_may(monkeypatch) -> None:
    clusters = fit()
    in_one = clusters.assign(FEATURES)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 77 * 4 * FEATURES.shape[1])
    assert max(len(block) for _, block in blocks.float32_blocks((FEATURES,))) == 77
    assert (clusters.assign(FEATURES) == in_one).all()


def test_fitting_on_some_prompts_assigns_all() -> None:
    labels = fit(fit_prompts=200).assign(FEATURES)
    assert len(labels) == len(FEATURES)
    assert same_partition(labels, WORLD.cluster)


def test_a_saved_clustering_assigns_the_same(tmp_path) -> None:
    clusters = fit(min_pairs=400, count=7)
    clusters.save(tmp_path / "clusters.safetensors")
    loaded = Clusters.load(tmp_path / "clusters.safetensors")
    assert loaded.count == clusters.count
    assert (loaded.assign(FEATURES) == clusters.assign(FEATURES)).all()


def test_no_cluster_is_left_with_too_few_pairs() -> None:
    pairs = np.random.default_rng(0).integers(3, size=len(FEATURES))
    clusters = fit(pairs=pairs, count=10, min_pairs=250)
    sizes = np.bincount(clusters.assign(FEATURES), weights=pairs)
    assert 1 < clusters.count < 10
    assert sizes.min() >= 250
    assert len(sizes) == clusters.count


def test_a_small_cluster_joins_its_nearest() -> None:
    centroids = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    assert merge_small(centroids, np.array([50.0, 50.0, 5.0]), 10).tolist() == [0, 1, 1]


def test_all_clusters_merge_where_pairs_are_few() -> None:
    assert fit(min_pairs=10**6).count == 1


def test_equal_prompts_make_one_cluster() -> None:
    clusters = fit(np.ones((5, 3), dtype=np.float32), np.ones(5, dtype=np.int64), count=4)
    assert clusters.assign(np.ones((5, 3), dtype=np.float32)).tolist() == [0] * 5


@pytest.mark.parametrize("count", [2, 50])
def test_fewer_prompts_than_clusters_are_enough(count) -> None:
    clusters = fit(FEATURES[:3], ONE_EACH[:3], count=count)
    assert clusters.count == min(count, 3)


def test_features_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"take features of the model"):
        fit().assign(FEATURES[:, :5])


@pytest.mark.parametrize("setting", ["count", "fit_prompts"])
def test_a_number_below_one_is_refused(setting) -> None:
    with pytest.raises(ValueError, match=f"clusters.{setting} is 0"):
        fit(**{setting: 0})


def test_features_that_are_not_finite_are_refused() -> None:
    broken = FEATURES.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit(broken)
