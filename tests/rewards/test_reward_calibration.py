from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit

from iwpo_fast.rewards import PairTable
from iwpo_fast.rewards.calibration import (
    calibrate,
    fit_calibration,
    logistic_loss,
    logistic_slope,
    units_of_unknown_scale,
)


def labelled_gaps(slope: float, count: int, seed: int = 0) -> np.ndarray:
    """Gaps whose sign is right with probability σ(slope |Δ|)."""
    draw = np.random.default_rng(seed)
    gaps = draw.standard_normal(count)
    return np.where(draw.random(count) < expit(slope * np.abs(gaps)), np.abs(gaps), -np.abs(gaps))


def fit(gaps, cluster, unit=None, strength=200.0, centre=0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rewards = np.stack([gaps / 2, -gaps / 2], axis=1).ravel() + centre
    unit = np.ones(cluster.max() + 1) if unit is None else unit
    table = PairTable.plain(np.arange(len(gaps)))
    return fit_calibration(rewards, table, cluster, unit, strength=strength)[:3]


@pytest.mark.parametrize("slope", [0.2, 1.0, 3.0])
def test_the_slope_of_labels_is_found(slope) -> None:
    assert logistic_slope(labelled_gaps(slope, 200_000)) == pytest.approx(slope, rel=0.03)


def test_the_slope_minimises_the_smoothed_logistic_loss() -> None:
    gaps = labelled_gaps(0.7, 300)
    weights = np.random.default_rng(1).random(300)
    target = 301 / 302

    def loss(s: float) -> float:
        return float(weights @ (target * np.logaddexp(0, -s * gaps) + (1 - target) * np.logaddexp(0, s * gaps)))

    assert logistic_slope(gaps, weights) == pytest.approx(minimize_scalar(loss, bounds=(0, 10)).x, rel=1e-4)


def test_flipped_labels_have_slope_zero() -> None:
    assert logistic_slope(-labelled_gaps(1.0, 500)) == 0.0


def test_labels_that_always_agree_have_a_finite_slope() -> None:
    assert 1 < logistic_slope(np.abs(labelled_gaps(1.0, 500))) < 1e4


def test_rewards_without_gaps_have_slope_zero() -> None:
    assert logistic_slope(np.zeros(5)) == 0.0
    assert logistic_slope(np.zeros(0)) == 0.0


def test_the_loss_at_slope_zero_is_ln_2() -> None:
    assert logistic_loss(labelled_gaps(1.0, 50), 0.0) == pytest.approx(np.log(2))


def test_each_cluster_gets_its_own_centre_and_slope() -> None:
    gaps = np.concatenate([labelled_gaps(0.5, 20_000, 1), labelled_gaps(2.0, 20_000, 2)])
    centre, slope, trust = fit(gaps, np.repeat([0, 1], 20_000), centre=3.0)
    assert slope == pytest.approx([0.5, 2.0], rel=0.1)
    assert trust == pytest.approx([0.5, 1.0], rel=0.1)
    assert centre == pytest.approx([3.0, 3.0])


def test_a_slope_is_shrunk_to_that_of_all_pairs_by_its_number_of_pairs() -> None:
    gaps = np.concatenate([labelled_gaps(1.0, 5000, 1), labelled_gaps(4.0, 200, 2)])
    cluster = np.repeat([0, 1], [5000, 200])
    alone, pooled, shrunk = (fit(gaps, cluster, strength=strength)[1][1] for strength in (0.0, 1e12, 200.0))
    assert pooled < alone
    assert shrunk == pytest.approx((alone + pooled) / 2)


def test_a_cluster_without_pairs_takes_the_pooled_slope() -> None:
    _, slope, _ = fit(labelled_gaps(1.0, 5000), np.zeros(5000, dtype=np.int64), unit=np.ones(2))
    assert slope[1] == pytest.approx(slope[0])


def test_random_labels_have_slope_and_trust_near_zero() -> None:
    trust = [fit(labelled_gaps(0.0, 1000, s), np.repeat([0, 1], 500))[2] for s in range(40)]
    assert np.mean(trust) < 0.05
    assert np.max(trust) < 0.5


def test_flipped_labels_give_reward_zero_not_minus() -> None:
    centre, slope, trust = fit(-labelled_gaps(1.0, 1000), np.repeat([0, 1], 500))
    assert (slope == 0).all()
    assert (trust == 0).all()
    assert (calibrate(np.array([2.0, -3.0]), np.array([0, 1]), centre, slope, 5.0) == 0).all()


def test_shift_and_scale_of_a_cluster_change_nothing_without_shrinkage() -> None:
    gaps, cluster = labelled_gaps(1.0, 2000), np.repeat([0, 1], 1000)
    scale = np.array([1.0, 50.0])
    rewards, places = np.stack([gaps / 2, -gaps / 2], axis=1).ravel(), cluster.repeat(2)
    moved = rewards * scale[places] + np.array([0.0, 1e4])[places]
    table = PairTable.plain(np.arange(2000))
    before, after = (
        calibrate(each, places, *fit_calibration(each, table, cluster, np.ones(2), strength=0.0)[:2], 5.0)
        for each in (rewards, moved)
    )
    np.testing.assert_allclose(after, before, atol=1e-8)


def test_rewards_of_unknown_scale_are_calibrated_the_same_on_any_scale_with_shrinkage_too() -> None:
    gaps, cluster = labelled_gaps(1.0, 2000), np.repeat([0, 1], 1000)
    scale = np.array([1e-3, 50.0])[cluster]
    _, slope, trust = fit(gaps, cluster, unit=units_of_unknown_scale(gaps, cluster, 2))
    _, slope_after, trust_after = fit(gaps * scale, cluster, unit=units_of_unknown_scale(gaps * scale, cluster, 2))
    np.testing.assert_allclose(trust_after, trust)
    np.testing.assert_allclose(slope_after * np.array([1e-3, 50.0]), slope)


def test_calibrated_rewards_are_clipped() -> None:
    one = np.zeros(1000, dtype=np.int64)
    centre, slope, _ = fit(labelled_gaps(3.0, 1000), one)
    assert calibrate(np.array([1e4, -1e4]), one[:2], centre, slope, 5.0).tolist() == [5.0, -5.0]


def test_a_pair_counts_less_where_many_share_a_prompt() -> None:
    gaps, cluster = labelled_gaps(0.4, 600), np.zeros(600, dtype=np.int64)
    rewards = np.stack([gaps / 2, -gaps / 2], axis=1).ravel()
    slopes = [
        fit_calibration(rewards, PairTable.plain(prompt), cluster, np.ones(1), strength=200.0)[1][0]
        for prompt in (np.arange(600), np.arange(600) // 3)
    ]
    assert 0 < slopes[1] < slopes[0]
