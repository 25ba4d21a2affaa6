from __future__ import annotations

import numpy as np

from iwpo_fast.importance.normalise import normalise

CLUSTER = np.array([0, 0, 0, 0, 2, 2])  # cluster 1 has no pairs


def test_weights_are_cut_once_and_renormalised_once() -> None:
    log_weight = np.log([6.0, 1.0, 0.5, 0.5, 3.0, 1.0])
    weight = normalise(log_weight, CLUSTER, 3, truncate=2.0, defensive=0.0)
    cut = np.array([2.0, 0.5, 0.25, 0.25])  # of 3, 0.5, 0.25, 0.25
    np.testing.assert_allclose(weight, [*(cut / 0.75), 1.5, 0.5], rtol=1e-14)


def test_a_constant_factor_per_cluster_does_not_matter() -> None:
    log_weight = np.random.default_rng(0).normal(size=6)
    factor = np.array([1e4, 0.0, -1e4])[CLUSTER]
    first, second = (normalise(x, CLUSTER, 3, truncate=1.2, defensive=0.1) for x in (log_weight, log_weight + factor))
    np.testing.assert_allclose(second, first, rtol=1e-10)


def test_minus_infinity_is_weight_zero() -> None:
    log_weight = np.array([0.0, -np.inf, 0.0, -np.inf, -np.inf, 3.0])
    assert normalise(log_weight, CLUSTER, 3, truncate=5.0, defensive=0.0).tolist() == [2.0, 0.0, 2.0, 0.0, 0.0, 2.0]
