from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from importance_cases import seeded

from iwpo_fast.importance.resampling import systematic_counts

MANY = st.lists(st.tuples(st.floats(0, 6), st.integers(0, 2)), min_size=1, max_size=40)


@seeded
@given(MANY, st.integers(0, 2**32))
def test_counts_are_the_weight_rounded_down_or_up(pairs: list[tuple[float, int]], seed: int) -> None:
    weight, cluster = np.array([w for w, _ in pairs]), np.array([k for _, k in pairs])
    counts = systematic_counts(weight, cluster, seed=seed)
    assert np.all((counts == np.floor(weight)) | (counts == np.ceil(weight)))


@seeded
@given(MANY, st.integers(0, 2**32))
def test_each_cluster_keeps_its_number_of_pairs(pairs: list[tuple[float, int]], seed: int) -> None:
    weight, cluster = np.array([w + 0.1 for w, _ in pairs]), np.array([k for _, k in pairs])
    size = np.bincount(cluster)
    weight /= (np.bincount(cluster, weight) / np.maximum(size, 1))[cluster]
    assert np.array_equal(np.bincount(cluster, systematic_counts(weight, cluster, seed=seed)), size)


def test_counts_are_the_weights_on_average() -> None:
    rng = np.random.default_rng(0)
    weight = rng.exponential(size=30)
    cluster = rng.integers(0, 3, 30)
    mean = np.mean([systematic_counts(weight, cluster, seed=seed) for seed in range(4000)], axis=0)
    np.testing.assert_allclose(mean, weight, atol=5 * 0.5 / np.sqrt(4000))  # 5 standard errors


def test_the_seed_decides_the_counts() -> None:
    weight, cluster = np.full(100, 0.5), np.zeros(100, dtype=np.int64)
    first, again, other = (systematic_counts(weight, cluster, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_counts_do_not_follow_the_order_of_the_data() -> None:
    """Taken in the data's order, equal weights of one half would draw every second pair."""
    counts = systematic_counts(np.full(100, 0.5), np.zeros(100, dtype=np.int64), seed=0)
    assert 10 < np.sum(counts[::2]) < 40
