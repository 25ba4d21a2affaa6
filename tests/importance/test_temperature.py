from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from importance_cases import BASELINES, FULL, PURE, make_candidate_rewards, make_rewards

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance import Candidates, PairRewards, pair_weights
from iwpo_fast.importance.noise import EVEN


def smallest_ess(rewards: PairRewards, settings: WeightConfig, tau: float) -> float:
    weights = pair_weights(rewards, dataclasses.replace(settings, tau=tau, ess_target="noise"), seed=0)
    return float(weights.cluster_ess[weights.cluster_pairs >= 256].min())


@pytest.mark.parametrize("target", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("truncate", [3.0, np.inf])
def test_the_temperature_is_the_smallest_that_keeps_the_effective_size(target: float, truncate: float) -> None:
    rewards = make_rewards(0, pairs=2000)
    settings = dataclasses.replace(PURE, tau="ess", ess_target=target, truncate=truncate)
    weights = pair_weights(rewards, settings, seed=0)
    assert weights.tau is not None and 0.5 < weights.tau < 100
    assert smallest_ess(rewards, settings, weights.tau) >= target
    assert smallest_ess(rewards, settings, 0.995 * weights.tau) < target


def test_a_temperature_is_found_beside_gamma_and_candidates() -> None:
    rewards = make_candidate_rewards(0, prompts=1000)
    for baseline in ("group", "shrunk"):
        settings = dataclasses.replace(FULL, tau="ess", ess_target=0.7, baseline=baseline)
        weights = pair_weights(rewards, settings, seed=0)
        assert weights.tau is not None
        assert smallest_ess(rewards, settings, weights.tau) >= settings.ess_target


def test_equal_rewards_take_the_coldest_temperature() -> None:
    rewards = PairRewards(np.ones(10), np.zeros(10), np.zeros(10, dtype=np.int64), np.ones(1))
    assert pair_weights(rewards, dataclasses.replace(PURE, tau="ess", ess_target=0.7), seed=0).tau == 0.5


def test_small_clusters_do_not_decide_the_temperature() -> None:
    rewards = make_rewards(1, pairs=2000, clusters=2)
    settings = dataclasses.replace(PURE, tau="ess", ess_target=0.7)
    extreme = PairRewards(
        np.append(rewards.chosen, [5.0, -5.0, -5.0, -5.0]),
        np.append(rewards.rejected, np.zeros(4)),
        np.append(rewards.cluster, [2, 2, 2, 2]),
        np.ones(3),
    )
    assert pair_weights(extreme, settings, seed=0).tau == pair_weights(rewards, settings, seed=0).tau


def test_a_target_that_no_temperature_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"keeps an effective sample size of 98\.5% .* lower weights\.ess_target"):
        pair_weights(make_rewards(2), dataclasses.replace(FULL, tau="ess", ess_target=0.985), seed=0)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("exponent", [0.0, -3.0])
def test_rewards_of_any_size_have_a_temperature(baseline: str, exponent: float) -> None:
    small = make_candidate_rewards(1)
    assert small.candidates is not None
    settings = WeightConfig(baseline=baseline, rejected_exponent=exponent, ess_target=0.98)
    for size in (200.0, 1e4, 1e9):
        rewards = dataclasses.replace(
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
