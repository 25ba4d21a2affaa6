"""Invariants that hold for calibration and weights together."""

from __future__ import annotations

import numpy as np
import pytest
from importance_cases import by_method

from iwpo_fast.importance import PairRewards, PairWeights, pair_weights
from iwpo_fast.rewards import PairTable
from iwpo_fast.rewards.calibration import calibrate, fit_calibration, units_of_unknown_scale

PAIRS, CLUSTERS = 3000, 3
CLUSTER = np.arange(PAIRS) % CLUSTERS


def raw_rewards(seed: int, *, informative: bool) -> np.ndarray:
    """[2, P]: chosen and rejected; labels follow the rewards, or are coin flips."""
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(2, PAIRS))
    likelihood = 1 / (1 + np.exp(-(reward[0] - reward[1]))) if informative else np.full(PAIRS, 0.5)
    return np.where(rng.random(PAIRS) < likelihood, reward, reward[::-1])


def weigh(raw: np.ndarray, method: str) -> PairWeights:
    """Calibrated without shrinkage of the clusters' slopes, then weighed."""
    gap = raw[0] - raw[1]
    pairs = np.arange(PAIRS)
    table = PairTable(pairs, pairs, pairs + PAIRS, np.tile(pairs, 2))
    unit = units_of_unknown_scale(gap, CLUSTER, CLUSTERS)
    centre, slope, trust, _ = fit_calibration(raw.ravel(), table, CLUSTER, unit, strength=0.0)
    chosen, rejected = (calibrate(part, CLUSTER, centre, slope, 5.0) for part in raw)
    return pair_weights(PairRewards(chosen, rejected, CLUSTER, trust), by_method(method), seed=0)


@pytest.mark.parametrize("method", ["irpss", "density_ratio", "rejection", "madpo", "selective"])
def test_an_affine_map_of_the_rewards_of_each_cluster_changes_nothing(method: str) -> None:
    raw = raw_rewards(0, informative=True)
    offset, scale = np.array([-40.0, 0.0, 7.0])[CLUSTER], np.array([0.05, 1.0, 30.0])[CLUSTER]
    before, after = weigh(raw, method), weigh(offset + scale * raw, method)
    assert before.weight.std() > 0.2 and before.label_smoothing.max() > 0.5
    np.testing.assert_allclose(after.weight, before.weight, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(after.label_smoothing, before.label_smoothing, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["irpss", "density_ratio", "rejection", "madpo"])
def test_random_labels_leave_almost_plain_dpo(method: str) -> None:
    spread = smoothing = 0.0
    for seed in range(10):
        weights = weigh(raw_rewards(seed, informative=False), method)
        spread += np.abs(weights.weight - 1).mean() / 10
        smoothing += weights.label_smoothing.mean() / 10
    assert spread < 0.03
    assert smoothing < 0.04
