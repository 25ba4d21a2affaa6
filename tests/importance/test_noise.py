from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from importance_cases import make_rewards

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance import PairRewards, pair_weights
from iwpo_fast.importance.noise import EVEN, LOWEST, PLENTY, SLOPE, UNKNOWN, effective_size_for, noise_share

DEFAULT = WeightConfig()


def test_noise_is_the_variance_among_members_over_the_square_of_their_mean() -> None:
    gaps = np.array([[1.0, 3.0], [-2.0, -2.0], [0.5, 0.5]])
    assert noise_share(gaps) == pytest.approx((2.0 / 3) / ((4.0 + 4.0 + 0.25) / 3))


def test_noise_of_normal_members_is_their_variance_over_that_of_the_mean_gap() -> None:
    random = np.random.default_rng(0)
    gaps = random.standard_normal((20_000, 1)) + 0.4 * random.standard_normal((20_000, 4))
    assert noise_share(gaps) == pytest.approx(0.16 / 1.04, rel=0.03)


def test_noise_does_not_depend_on_the_scale_of_rewards() -> None:
    gaps = np.random.default_rng(1).standard_normal((50, 3))
    assert noise_share(1e4 * gaps) == pytest.approx(noise_share(gaps))


def test_one_member_says_nothing_of_noise_and_equal_rewards_have_none() -> None:
    assert noise_share(np.ones((10, 1))) is None
    assert noise_share(np.zeros((10, 4))) == 0.0


def test_noisier_rewards_let_weights_be_more_unequal_within_bounds() -> None:
    assert effective_size_for(0.0) == effective_size_for(PLENTY) == effective_size_for(PLENTY + 1e-4) == 1.0
    sizes = [effective_size_for(noise) for noise in np.linspace(PLENTY, 1.0, 50)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 1.0
    assert sizes[-1] == LOWEST
    assert effective_size_for(None) == UNKNOWN


def of_noise(rewards: PairRewards, noise: float | None) -> PairRewards:
    return replace(rewards, noise=noise)


def test_weights_keep_the_effective_size_that_the_noise_asks_for() -> None:
    rewards = make_rewards(0, pairs=3000)
    for noise in (PLENTY + 0.02, PLENTY + 0.1, None):
        weights = pair_weights(of_noise(rewards, noise), DEFAULT, seed=0)
        large = weights.cluster_ess[weights.cluster_pairs >= 256]
        assert large.min() == pytest.approx(effective_size_for(noise), abs=2e-3)


def test_weights_are_exactly_one_where_the_ensemble_agrees() -> None:
    weights = pair_weights(of_noise(make_rewards(0), PLENTY), DEFAULT, seed=0)
    assert np.all(weights.weight == 1.0)
    assert weights.tau is None


def test_the_most_extreme_calibrated_rewards_have_a_temperature() -> None:
    chosen = np.where(np.arange(600) % 2, 5.0, -5.0)
    rewards = PairRewards(chosen, -chosen, np.zeros(600, dtype=np.int64), np.ones(1))
    noise = PLENTY + (1 - EVEN) / SLOPE + 1e-6
    weights = pair_weights(of_noise(rewards, noise), DEFAULT, seed=0)
    assert weights.ess == pytest.approx(EVEN, abs=2e-3)


@pytest.mark.parametrize("noise", [0.0, 10.0, None])
def test_rewards_that_say_almost_nothing_leave_almost_plain_dpo(noise: float | None) -> None:
    """Random labels, as finite data shows them: a slope of a few thousandths, all of it noise."""
    chosen, rejected = 0.004 * np.clip(np.random.default_rng(0).normal(size=(2, 500)), -3, 3)
    rewards = PairRewards(chosen, rejected, np.arange(500) % 3, np.full(3, 0.004), noise=noise)
    weights = pair_weights(rewards, DEFAULT, seed=0)
    assert np.abs(weights.weight - 1).max() < 0.05
    assert np.abs(weights.label_smoothing).max() < 0.002


@pytest.mark.parametrize("noise", [-0.1, np.nan])
def test_noise_that_cannot_be_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match="it must be 0 or more, or None"):
        of_noise(make_rewards(0), noise)
