from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from importance_cases import (
    BASELINES,
    FORMS,
    FULL,
    METHODS,
    PURE,
    by_method,
    cluster_means,
    make_candidate_rewards,
    make_rewards,
    pair_rewards,
    seeded,
)

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance import Candidates, PairRewards, pair_weights
from iwpo_fast.importance.effective_size import is_large
from iwpo_fast.importance.noise import effective_size_for


def full_weights_slowly(rewards: PairRewards) -> np.ndarray:
    """Pair by pair: τ = 2, γ = 2, b = 0, self-normalised, cut at 5, renormalised once."""
    weights = np.empty(len(rewards))
    for k in set(rewards.cluster.tolist()):
        rows = [i for i in range(len(rewards)) if rewards.cluster[i] == k]
        a = []
        for i in rows:
            gap = rewards.chosen[i] - rewards.rejected[i]
            a.append(math.exp(rewards.chosen[i] / 2) / (1 + math.exp(-2 * gap)))
        a = [value * len(a) / math.fsum(a) for value in a]
        a = [min(value, 5.0) for value in a]
        weights[rows] = [value * len(a) / math.fsum(a) for value in a]
    return weights


def test_weights_are_those_of_the_formula() -> None:
    rewards = make_rewards(0)
    expected = full_weights_slowly(rewards)
    assert expected.max() > 4  # the cut matters
    np.testing.assert_allclose(pair_weights(rewards, FULL, seed=0).weight, expected, rtol=1e-12)


@seeded
@given(
    pair_rewards(),
    st.sampled_from(FORMS),
    st.sampled_from(METHODS),
    st.floats(0, 1),
    st.sampled_from([1.0, 5.0, math.inf]),
)
def test_weights_are_finite_with_mean_one_in_each_cluster(
    rewards: PairRewards, form: WeightConfig, method: str, defensive: float, truncate: float
) -> None:
    settings = by_method(method, form, defensive=defensive, truncate=truncate)
    weights = pair_weights(rewards, settings, seed=0)
    assert np.all(np.isfinite(weights.weight)) and np.all(weights.weight >= 0)
    assert np.all((weights.label_smoothing >= 0) & (weights.label_smoothing <= 0.75))
    np.testing.assert_allclose(cluster_means(weights.weight, rewards.cluster), 1.0, rtol=1e-12)


@hypothesis_settings(seeded, max_examples=30)
@given(pair_rewards())
def test_the_default_keeps_the_effective_size_that_the_noise_asks_for_whatever_the_rewards(
    rewards: PairRewards,
) -> None:
    weights = pair_weights(rewards, WeightConfig(), seed=0)
    large = is_large(weights.cluster_pairs)
    assert np.all(weights.cluster_ess[large] >= effective_size_for(rewards.noise) * (1 - 1e-12))


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("exponent", [0.0, -0.5, 1.0])
def test_huge_rewards_of_candidates_give_finite_weights(baseline: str, exponent: float) -> None:
    small = make_candidate_rewards(0)
    assert small.candidates is not None
    rewards = dataclasses.replace(
        small,
        chosen=1e4 * small.chosen,
        rejected=1e4 * small.rejected,
        candidates=Candidates(1e4 * small.candidates.reward, small.candidates.prompt),
    )
    weight = pair_weights(
        rewards, dataclasses.replace(FULL, baseline=baseline, rejected_exponent=exponent), seed=0
    ).weight
    assert np.all(np.isfinite(weight))
    np.testing.assert_allclose(cluster_means(weight, rewards.cluster), 1.0, rtol=1e-12)


@seeded
@given(
    pair_rewards(largest=5.0),
    st.sampled_from([FULL, PURE]),
    st.floats(-100, 100),
    st.floats(-1, 1),
    st.sampled_from(METHODS),
)
def test_a_shift_of_all_rewards_of_a_cluster_changes_nothing(
    rewards: PairRewards, form: WeightConfig, shift: float, exponent: float, method: str
) -> None:
    by_cluster = shift * np.arange(1, rewards.clusters + 1)[rewards.cluster]
    shifted = dataclasses.replace(rewards, chosen=rewards.chosen + by_cluster, rejected=rewards.rejected + by_cluster)
    settings = by_method(method, form, rejected_exponent=exponent)
    before, after = (pair_weights(given, settings, seed=0) for given in (rewards, shifted))
    np.testing.assert_allclose(after.weight, before.weight, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(after.label_smoothing, before.label_smoothing, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("noise", [0.1, 0.2, None])
def test_a_shift_of_all_rewards_of_a_cluster_changes_nothing_by_default(noise: float | None) -> None:
    rewards = dataclasses.replace(make_rewards(9), noise=noise)
    shift = np.array([40.0, -7.0, 0.0])[rewards.cluster]
    shifted = dataclasses.replace(rewards, chosen=rewards.chosen + shift, rejected=rewards.rejected + shift)
    before, after = (pair_weights(given, WeightConfig(), seed=0) for given in (rewards, shifted))
    assert before.weight.std() > 0.1
    np.testing.assert_allclose(after.weight, before.weight, rtol=1e-9)


@pytest.mark.parametrize("noise", [0.1, 0.2, None])
def test_weights_do_not_depend_on_the_scale_of_the_rewards_by_default(noise: float | None) -> None:
    """As exactly as the temperature is known, 0.2 %."""
    rewards = dataclasses.replace(make_rewards(10, size=2.0), noise=noise)
    before = pair_weights(rewards, WeightConfig(), seed=0)
    assert before.weight.std() > 0.1
    for scale in (3.0, 1e4):
        scaled = dataclasses.replace(rewards, chosen=scale * rewards.chosen, rejected=scale * rewards.rejected)
        after = pair_weights(scaled, WeightConfig(), seed=0)
        np.testing.assert_allclose(np.log(after.weight), np.log(before.weight), rtol=3e-3, atol=6e-3)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("settings", "name"),
    [({"tau": 1e-320}, "tau"), ({"method": "density_ratio", "ratio_scale": 1e-320}, "ratio_scale")],
)
def test_weights_that_are_not_finite_are_refused(settings: dict[str, Any], name: str, force: bool) -> None:
    with pytest.raises(ValueError, match=rf"^With weights\.{name} .* not finite: raise weights\.{name}\.$"):
        pair_weights(make_rewards(11), WeightConfig(**settings, force=force), seed=0)


@pytest.mark.parametrize("baseline", BASELINES)
def test_an_infinite_temperature_without_gamma_weighs_every_pair_exactly_one(baseline: str) -> None:
    rewards = make_candidate_rewards(1)
    weight = pair_weights(rewards, dataclasses.replace(FULL, tau=math.inf, gamma=0.0, baseline=baseline), seed=0).weight
    assert np.all(weight == 1.0)


def test_weights_tend_to_one_as_tau_grows_and_gamma_falls() -> None:
    rewards = make_rewards(2)
    off = [
        np.abs(pair_weights(rewards, dataclasses.replace(FULL, tau=1 / s, gamma=s), seed=0).weight - 1).max()
        for s in (1e-1, 1e-3, 1e-5)
    ]
    assert off[0] > 50 * off[1] > 50**2 * off[2] > 0


@pytest.mark.parametrize("method", METHODS)
def test_rewards_that_say_nothing_leave_plain_dpo(method: str) -> None:
    """Random labels: calibration gives such rewards slope 0, so reward 0 and trust 0."""
    rewards = PairRewards(np.zeros(500), np.zeros(500), np.arange(500) % 3, np.zeros(3))
    weights = pair_weights(rewards, by_method(method), seed=0)
    assert np.all(weights.weight == 1.0)
    assert np.all(weights.label_smoothing == 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_rewards_that_say_almost_nothing_leave_almost_plain_dpo(method: str) -> None:
    """Random labels, as finite data shows them: a slope of a few thousandths."""
    slope = 0.004
    chosen, rejected = slope * np.clip(np.random.default_rng(0).normal(size=(2, 500)), -3, 3)
    rewards = PairRewards(chosen, rejected, np.arange(500) % 3, np.full(3, slope))
    weights = pair_weights(rewards, by_method(method), seed=0)
    assert np.abs(weights.weight - 1).max() < 0.05
    assert weights.label_smoothing.max() < 0.75 * slope * 0.51


def test_weights_and_labels_off_are_exactly_ones_and_zeros() -> None:
    weights = pair_weights(make_rewards(3), by_method("none", soft_labels=0.0), seed=0)
    assert np.all(weights.weight == 1.0)
    assert np.all(weights.label_smoothing == 0.0)
    assert weights.counts is None and weights.tau is None and weights.ess == 1.0


def test_soft_labels_do_not_depend_on_the_method() -> None:
    """So that soft labels without weights can be an arm of an experiment."""
    rewards = make_rewards(4)
    first, *others = (pair_weights(rewards, by_method(m), seed=0).label_smoothing for m in METHODS)
    assert first.max() > 0.1
    assert all(np.array_equal(first, other) for other in others)


def test_only_defensive_weights_are_exactly_one() -> None:
    assert np.all(pair_weights(make_rewards(5), dataclasses.replace(FULL, defensive=1.0), seed=0).weight == 1.0)


def test_a_defensive_share_is_a_lower_bound() -> None:
    rewards = make_rewards(5)
    plain = pair_weights(rewards, FULL, seed=0).weight
    mixed = pair_weights(rewards, dataclasses.replace(FULL, defensive=0.2), seed=0).weight
    assert plain.min() < 0.2 <= mixed.min()
    np.testing.assert_allclose(mixed, 0.8 * plain + 0.2, rtol=1e-12)


def test_resampling_gives_counts_around_the_weights_and_skips_pairs() -> None:
    rewards = make_rewards(6)
    weighting = pair_weights(rewards, FULL, seed=0)
    resampling = pair_weights(rewards, dataclasses.replace(FULL, realisation="resampling"), seed=0)
    assert resampling.counts is not None and resampling.counts.dtype == np.int64
    assert np.array_equal(resampling.weight, resampling.counts.astype(np.float64))
    assert np.all(np.abs(resampling.weight - weighting.weight) < 1)
    assert np.any(resampling.weight == 0)
    assert np.all(cluster_means(resampling.weight, rewards.cluster) == 1.0)
    assert resampling.ess == weighting.ess


def test_float32_rewards_are_computed_in_float64() -> None:
    rewards = make_rewards(7)
    chosen, rejected = rewards.chosen.astype(np.float32), rewards.rejected.astype(np.float32)
    narrow = PairRewards(chosen, rejected, rewards.cluster, rewards.trust)
    wide = PairRewards(chosen.astype(np.float64), rejected.astype(np.float64), rewards.cluster, rewards.trust)
    weights = [pair_weights(given, FULL, seed=0).weight for given in (narrow, wide)]
    assert weights[0].dtype == np.float64
    assert np.array_equal(*weights)


def test_a_setting_that_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^weights\.truncate is 0\.5: it must be at least 1\.$"):
        pair_weights(make_rewards(8), dataclasses.replace(FULL, truncate=0.5), seed=0)
