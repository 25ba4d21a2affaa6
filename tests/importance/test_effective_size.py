from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from importance_cases import BASELINES, FULL, PURE, changed, make_candidate_rewards, make_rewards

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance import Candidates, PairRewards, pair_weights
from iwpo_fast.importance.effective_size import (
    EVEN,
    LOWEST,
    PLENTY,
    SLOPE,
    UNKNOWN,
    effective_size_for,
    ess_fraction,
    is_large,
    noise_share,
)

BY_NOISE = WeightConfig(method="irpss", soft_labels=0.5)


def test_equal_weights_on_a_part_of_the_pairs_have_the_size_of_that_part() -> None:
    weight = np.array([4.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    overall, each = ess_fraction(weight, np.array([0, 0, 0, 0, 2, 2]), 3)
    assert each[0] == 0.25 and np.isnan(each[1]) and each[2] == 1.0
    assert overall == pytest.approx(6**2 / (6 * 18))


def test_a_cluster_is_large_from_256_pairs_or_if_it_is_the_largest() -> None:
    assert is_large(np.array([255, 256, 3000])).tolist() == [False, True, True]
    assert is_large(np.array([10, 200, 0])).tolist() == [False, True, False]


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
        weights = pair_weights(of_noise(rewards, noise), BY_NOISE, seed=0)
        large = weights.cluster_ess[weights.cluster_pairs >= 256]
        assert large.min() == pytest.approx(effective_size_for(noise), abs=2e-3)


def test_weights_are_exactly_one_where_the_ensemble_agrees() -> None:
    weights = pair_weights(of_noise(make_rewards(0), PLENTY), BY_NOISE, seed=0)
    assert np.all(weights.weight == 1.0)
    assert weights.tau is None


def test_the_most_extreme_calibrated_rewards_have_a_temperature() -> None:
    chosen = np.where(np.arange(600) % 2, 5.0, -5.0)
    rewards = PairRewards(chosen, -chosen, np.zeros(600, dtype=np.int64), np.ones(1))
    noise = PLENTY + (1 - EVEN) / SLOPE + 1e-6
    weights = pair_weights(of_noise(rewards, noise), BY_NOISE, seed=0)
    assert weights.ess == pytest.approx(EVEN, abs=2e-3)


@pytest.mark.parametrize("noise", [0.0, 10.0, None])
def test_rewards_that_say_almost_nothing_leave_almost_plain_dpo(noise: float | None) -> None:
    """Random labels, as finite data shows them: a slope of a few thousandths, all of it noise."""
    chosen, rejected = 0.004 * np.clip(np.random.default_rng(0).normal(size=(2, 500)), -3, 3)
    rewards = PairRewards(chosen, rejected, np.arange(500) % 3, np.full(3, 0.004), noise=noise)
    weights = pair_weights(rewards, BY_NOISE, seed=0)
    assert np.abs(weights.weight - 1).max() < 0.05
    assert np.abs(weights.label_smoothing).max() < 0.002


@pytest.mark.parametrize("noise", [-0.1, np.nan])
def test_noise_that_cannot_be_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match="it must be 0 or more, or None"):
        of_noise(make_rewards(0), noise)


def smallest_ess(rewards: PairRewards, settings: WeightConfig, tau: float) -> float:
    weights = pair_weights(rewards, replace(settings, tau=tau, ess_target="noise"), seed=0)
    return float(weights.cluster_ess[weights.cluster_pairs >= 256].min())


@pytest.mark.parametrize("target", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("truncate", [3.0, np.inf])
def test_the_temperature_is_the_smallest_that_keeps_the_effective_size(target: float, truncate: float) -> None:
    rewards = make_rewards(0, pairs=2000)
    settings = replace(PURE, tau="ess", ess_target=target, truncate=truncate)
    weights = pair_weights(rewards, settings, seed=0)
    assert weights.tau is not None and 0.5 < weights.tau < 100
    assert smallest_ess(rewards, settings, weights.tau) >= target
    assert smallest_ess(rewards, settings, 0.995 * weights.tau) < target


def test_a_temperature_is_found_beside_gamma_and_candidates() -> None:
    rewards = make_candidate_rewards(0, prompts=1000)
    for baseline in ("group", "shrunk"):
        settings = changed(FULL, tau="ess", ess_target=0.7, baseline=baseline)
        weights = pair_weights(rewards, settings, seed=0)
        assert weights.tau is not None
        assert smallest_ess(rewards, settings, weights.tau) >= settings.ess_target


def test_equal_rewards_take_the_coldest_temperature() -> None:
    rewards = PairRewards(np.ones(10), np.zeros(10), np.zeros(10, dtype=np.int64), np.ones(1))
    assert pair_weights(rewards, replace(PURE, tau="ess", ess_target=0.7), seed=0).tau == 0.5


def test_small_clusters_do_not_decide_the_temperature() -> None:
    rewards = make_rewards(1, pairs=2000, clusters=2)
    settings = replace(PURE, tau="ess", ess_target=0.7)
    extreme = PairRewards(
        np.append(rewards.chosen, [5.0, -5.0, -5.0, -5.0]),
        np.append(rewards.rejected, np.zeros(4)),
        np.append(rewards.cluster, [2, 2, 2, 2]),
        np.ones(3),
    )
    assert pair_weights(extreme, settings, seed=0).tau == pair_weights(rewards, settings, seed=0).tau


def test_a_target_that_no_temperature_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"keeps an effective sample size of 98\.5% .* lower weights\.ess_target"):
        pair_weights(make_rewards(2), replace(FULL, tau="ess", ess_target=0.985), seed=0)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("exponent", [0.0, -3.0])
def test_rewards_of_any_size_have_a_temperature(baseline: str, exponent: float) -> None:
    small = make_candidate_rewards(1)
    assert small.candidates is not None
    settings = changed(BY_NOISE, baseline=baseline, rejected_exponent=exponent, ess_target=0.98)
    for size in (200.0, 1e4, 1e9):
        rewards = replace(
            small,
            chosen=size * small.chosen,
            rejected=size * small.rejected,
            candidates=Candidates(size * small.candidates.reward, small.candidates.prompt),
        )
        weights = pair_weights(rewards, settings, seed=0)
        assert weights.tau is not None and (weights.tau > 100 or baseline == "group")
        assert weights.cluster_ess.min() >= 0.98


@pytest.mark.parametrize("target", [EVEN, 1.0])
def test_a_target_of_nearly_all_pairs_makes_all_weights_one(target: float) -> None:
    weights = pair_weights(make_rewards(3), WeightConfig(ess_target=target), seed=0)
    assert np.all(weights.weight == 1.0) and weights.tau is None
