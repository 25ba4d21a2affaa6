from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from importance_cases import (
    BASELINES,
    EXAMPLES,
    FULL,
    METHODS,
    PURE,
    SMOOTH,
    by_method,
    changed,
    cluster_means,
    make_candidate_rewards,
    make_rewards,
    pair_rewards,
    seeded,
)
from scipy.special import expit

from iwpo_fast.config import FORMS, ExperimentalConfig, WeightConfig
from iwpo_fast.config_checks import check_weight_settings
from iwpo_fast.importance import Candidates, PairRewards, pair_weights
from iwpo_fast.importance.effective_size import effective_size_for, is_large
from iwpo_fast.importance.labels import gap_variance, posterior_labels, soft_labels
from iwpo_fast.importance.posterior import flip_probability
from iwpo_fast.importance.resampling import systematic_counts
from iwpo_fast.importance.weights import normalise
from iwpo_kernels import weighted_preference_loss

BY_NOISE = WeightConfig(method="irpss")
UTILITY = torch.tensor([1.0, -0.5, 0.25, 0.0, -1.5], dtype=torch.float64)
REWARD = np.array([0.3, 2.0, -1.0, 0.5, -0.7])
CLUSTER = np.array([0, 0, 0, 0, 2, 2])  # cluster 1 has no pairs
REWARDS = PairRewards(
    chosen=np.array([2.0, -1.0, 0.0, 1e4, -1e4]),
    rejected=np.array([0.5, 1.0, 0.0, -1e4, 1e4]),
    cluster=np.array([0, 0, 1, 1, 1]),
    trust=np.array([0.4, 1.0]),
)
MANY = st.lists(st.tuples(st.floats(0, 6), st.integers(0, 2)), min_size=1, max_size=40)


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


@pytest.mark.slow
@seeded
@given(
    pair_rewards(),
    st.sampled_from(EXAMPLES),
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


@pytest.mark.slow
@hypothesis_settings(seeded, max_examples=30)
@given(pair_rewards())
def test_weights_keep_the_effective_size_that_the_noise_asks_for_whatever_the_rewards(
    rewards: PairRewards,
) -> None:
    weights = pair_weights(rewards, BY_NOISE, seed=0)
    large = is_large(weights.cluster_pairs)
    assert np.all(weights.cluster_ess[large] >= effective_size_for(rewards.noise) * (1 - 1e-12))


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("exponent", [0.0, -0.5, 1.0])
def test_huge_rewards_of_candidates_give_finite_weights(baseline: str, exponent: float) -> None:
    small = make_candidate_rewards(0)
    assert small.candidates is not None
    rewards = replace(
        small,
        chosen=1e4 * small.chosen,
        rejected=1e4 * small.rejected,
        candidates=Candidates(1e4 * small.candidates.reward, small.candidates.prompt),
    )
    weight = pair_weights(rewards, changed(FULL, baseline=baseline, rejected_exponent=exponent), seed=0).weight
    assert np.all(np.isfinite(weight))
    np.testing.assert_allclose(cluster_means(weight, rewards.cluster), 1.0, rtol=1e-12)


@pytest.mark.slow
@seeded
@given(
    pair_rewards(largest=5.0),
    st.sampled_from([FULL, PURE]),
    st.floats(-100, 100),
    st.floats(-1, 1),
    st.sampled_from(SMOOTH),
)
def test_a_shift_of_all_rewards_of_a_cluster_changes_nothing(
    rewards: PairRewards, form: WeightConfig, shift: float, exponent: float, method: str
) -> None:
    by_cluster = shift * np.arange(1, rewards.clusters + 1)[rewards.cluster]
    shifted = replace(rewards, chosen=rewards.chosen + by_cluster, rejected=rewards.rejected + by_cluster)
    settings = by_method(method, form, rejected_exponent=exponent)
    before, after = (pair_weights(given, settings, seed=0) for given in (rewards, shifted))
    np.testing.assert_allclose(after.weight, before.weight, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(after.label_smoothing, before.label_smoothing, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("noise", [0.1, 0.2, None])
def test_a_shift_of_all_rewards_of_a_cluster_changes_nothing_where_noise_decides(noise: float | None) -> None:
    rewards = replace(make_rewards(9), noise=noise)
    shift = np.array([40.0, -7.0, 0.0])[rewards.cluster]
    shifted = replace(rewards, chosen=rewards.chosen + shift, rejected=rewards.rejected + shift)
    before, after = (pair_weights(given, BY_NOISE, seed=0) for given in (rewards, shifted))
    assert before.weight.std() > 0.1
    np.testing.assert_allclose(after.weight, before.weight, rtol=1e-9)


@pytest.mark.parametrize("noise", [0.1, 0.2, None])
def test_weights_do_not_depend_on_the_scale_of_the_rewards_where_noise_decides(noise: float | None) -> None:
    """As exactly as the temperature is known, 0.2 %."""
    rewards = replace(make_rewards(10, size=2.0), noise=noise)
    before = pair_weights(rewards, BY_NOISE, seed=0)
    assert before.weight.std() > 0.1
    for scale in (3.0, 1e4):
        scaled = replace(rewards, chosen=scale * rewards.chosen, rejected=scale * rewards.rejected)
        after = pair_weights(scaled, BY_NOISE, seed=0)
        np.testing.assert_allclose(np.log(after.weight), np.log(before.weight), rtol=3e-3, atol=6e-3)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (WeightConfig(tau=1e-320), "tau"),
        (by_method("density_ratio", ratio_scale=1e-320), r"experimental\.ratio_scale"),
    ],
)
def test_weights_that_are_not_finite_are_refused(settings: WeightConfig, name: str, force: bool) -> None:
    with pytest.raises(ValueError, match=rf"^With weights\.{name} .* not finite: raise weights\.{name}\.$"):
        pair_weights(make_rewards(11), replace(settings, force=force), seed=0)


@pytest.mark.parametrize("baseline", BASELINES)
def test_an_infinite_temperature_without_gamma_weighs_every_pair_exactly_one(baseline: str) -> None:
    rewards = make_candidate_rewards(1)
    weight = pair_weights(rewards, changed(FULL, tau=math.inf, gamma=0.0, baseline=baseline), seed=0).weight
    assert np.all(weight == 1.0)


def test_weights_tend_to_one_as_tau_grows_and_gamma_falls() -> None:
    rewards = make_rewards(2)
    off = [
        np.abs(pair_weights(rewards, replace(FULL, tau=1 / s, gamma=s), seed=0).weight - 1).max()
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


@pytest.mark.parametrize("method", SMOOTH)
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
    assert np.all(pair_weights(make_rewards(5), replace(FULL, defensive=1.0), seed=0).weight == 1.0)


def test_a_defensive_share_is_a_lower_bound() -> None:
    rewards = make_rewards(5)
    plain = pair_weights(rewards, FULL, seed=0).weight
    mixed = pair_weights(rewards, replace(FULL, defensive=0.2), seed=0).weight
    assert plain.min() < 0.2 <= mixed.min()
    np.testing.assert_allclose(mixed, 0.8 * plain + 0.2, rtol=1e-12)


def test_resampling_gives_counts_around_the_weights_and_skips_pairs() -> None:
    rewards = make_rewards(6)
    weighting = pair_weights(rewards, FULL, seed=0)
    resampling = pair_weights(rewards, replace(FULL, realisation="resampling"), seed=0)
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
        pair_weights(make_rewards(8), replace(FULL, truncate=0.5), seed=0)


def minimiser(weight: torch.Tensor, utility: torch.Tensor, h: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """h [K, K] that minimises sum_ij P(i over j) W_ij · -log σ(h_ij), P Bradley-Terry of the utilities [K]."""
    likelihood = torch.sigmoid(utility[:, None] - utility[None, :])
    parameter = torch.zeros(len(utility), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [parameter], max_iter=500, tolerance_grad=1e-13, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = -(likelihood * weight * torch.nn.functional.logsigmoid(h(parameter))).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return h(parameter).detach()


def weights_of_all_ordered_pairs(settings: WeightConfig) -> torch.Tensor:
    """W [K, K] with completion i chosen over completion j."""
    chosen, rejected = (grid.ravel() for grid in np.meshgrid(REWARD, REWARD, indexing="ij"))
    rewards = PairRewards(chosen, rejected, np.zeros(chosen.size, dtype=np.int64), np.ones(1))
    weight = pair_weights(rewards, settings, seed=0).weight
    return torch.from_numpy(weight.reshape(len(REWARD), len(REWARD)))


@pytest.mark.parametrize("tau", [0.8, 3.0])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, -1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_the_minimiser_of_the_weighted_loss_is_tilted_by_the_rewards(tau: float, exponent: float, gamma: float) -> None:
    """h = Δ* + (1-λ)(r_1 - r_2)/τ; the probability σ(γΔ) adds γ (r_1 - r_2), as σ(x)/σ(-x) = exp(x)."""
    settings = changed(FULL, tau=tau, gamma=gamma, rejected_exponent=exponent, truncate=np.inf)
    h = minimiser(weights_of_all_ordered_pairs(settings), UTILITY, lambda score: score[:, None] - score[None, :])
    reward = torch.from_numpy(REWARD)
    expected = UTILITY + ((1 - exponent) / tau + gamma) * reward
    torch.testing.assert_close(h, expected[:, None] - expected[None, :], rtol=0, atol=1e-6)


def test_the_rejected_exponent_one_weighs_both_orders_of_a_pair_alike() -> None:
    symmetric = weights_of_all_ordered_pairs(changed(FULL, gamma=0.0, rejected_exponent=1.0, truncate=np.inf))
    torch.testing.assert_close(symmetric, symmetric.T, rtol=1e-14, atol=0)
    assert symmetric.std() > 0.1


def test_importance_resampling_of_uniform_proposals_recovers_the_target_policy() -> None:
    """The weighted frequencies of preferred samples are those of π* ∝ π_ref exp(r/τ)."""
    completions = np.repeat(np.arange(len(REWARD)), [400, 100, 200, 250, 50])
    zero = np.zeros(completions.size, dtype=np.int64)
    rewards = PairRewards(REWARD[completions], np.zeros(completions.size), zero, np.ones(1))
    weight = pair_weights(rewards, PURE, seed=0).weight
    target = np.array([0.4, 0.1, 0.2, 0.25, 0.05]) * np.exp(REWARD / PURE.tau)
    np.testing.assert_allclose(np.bincount(completions, weight) / 1000, target / target.sum(), rtol=1e-12)


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


def test_soft_labels_are_the_trusted_probability_of_a_flip() -> None:
    gap = np.array([1.5, -2.0, 0.0])
    expected = 0.75 * np.array([0.4, 0.4, 1.0]) / (1 + np.exp(gap))
    np.testing.assert_allclose(soft_labels(REWARDS, 0.75)[:3], expected, rtol=1e-14)


def test_posterior_labels_are_the_flips_of_a_relative_variance() -> None:
    rewards = replace(make_rewards(4), reliability=np.array([1.0, 0.5, 1.0]))
    settings = by_method("none", soft_labels="posterior", relative_variance=2.0)
    made = pair_weights(rewards, settings, seed=0).label_smoothing
    for k, extra in enumerate((0.0, 1.0, 0.0)):
        gap = rewards.gap[rewards.cluster == k]
        expected = flip_probability(gap, 2 * float(np.mean(rewards.gap**2)) + extra)
        np.testing.assert_allclose(made[rewards.cluster == k], expected, rtol=1e-12)


def test_posterior_labels_go_from_the_labels_to_the_rewards_alone() -> None:
    rewards = replace(make_rewards(4), reliability=np.ones(3))
    labels, mild, strong, alone = (
        pair_weights(rewards, by_method("none", soft_labels="posterior", relative_variance=nu), seed=0).label_smoothing
        for nu in (math.inf, 4.0, 0.25, 0.0)
    )
    assert np.all(labels == 0)
    np.testing.assert_allclose(alone, expit(-rewards.gap), rtol=1e-12)
    disputed = rewards.gap < 0
    assert np.all((mild < strong)[disputed]) and np.all((strong < alone)[disputed])
    assert disputed.any() and np.all(mild > 0)


def test_rewards_that_know_nothing_leave_the_labels_and_the_passage_is_even() -> None:
    """With gaps of 0 a posterior without reliability would make a coin of every label."""
    shares = np.array([0.0, 1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0])
    rewards = PairRewards(np.zeros(7), np.zeros(7), np.arange(7), np.zeros(7), reliability=shares)
    flips = pair_weights(rewards, by_method("none", soft_labels="posterior"), seed=0).label_smoothing
    assert flips[0] == 0 and flips[-1] == 0.5
    assert np.all(np.diff(flips) > 0)
    assert flips[1] < 1e-3
    without = replace(rewards, reliability=None, trust=shares)
    assert np.array_equal(
        pair_weights(without, by_method("none", soft_labels="posterior"), seed=0).label_smoothing, flips
    )


def test_posterior_labels_stay_below_one_in_float32() -> None:
    rewards = PairRewards(np.array([-1e4, 1e4]), np.array([1e4, -1e4]), np.zeros(2, dtype=np.int64), np.ones(1))
    for variance in (0.0, 1e-12, 1.0, 1e12, np.inf):
        flips = posterior_labels(rewards, np.array([variance]))
        assert np.all(np.isfinite(flips)) and np.all(flips.astype(np.float32) < 1)
    assert posterior_labels(rewards, np.zeros(1))[0] > 0.99


def test_a_form_sets_what_is_auto_and_nothing_else() -> None:
    assert WeightConfig().form == "cautious"
    for form, values in FORMS.items():
        made = WeightConfig(form=form).resolved()
        assert {name: getattr(made, name) for name in values} == values
        assert "auto" not in vars(made).values()
    own = WeightConfig(form="strong", tau=3.0, soft_labels=0.1).resolved()
    assert (own.tau, own.gamma, own.soft_labels) == (3.0, 2.0, 0.1)


def test_the_form_off_is_plain_dpo() -> None:
    made = pair_weights(make_rewards(3), WeightConfig(form="off"), seed=0)
    assert np.all(made.weight == 1.0) and np.all(made.label_smoothing == 0.0)


def test_the_cautious_form_takes_posterior_labels_and_the_strong_one_weighs() -> None:
    rewards = make_rewards(4)
    cautious, strong = (pair_weights(rewards, WeightConfig(form=form), seed=0) for form in ("cautious", "strong"))
    assert np.all(cautious.weight == 1.0) and strong.ess < 0.9
    np.testing.assert_array_equal(cautious.label_smoothing, posterior_labels(rewards, gap_variance(rewards, 1.0)))


@pytest.mark.parametrize(
    "settings", [{"tau": 2.0}, {"ess_target": 0.5}, {"truncate": 3.0}, {"realisation": "resampling", "tau": 2.0}]
)
def test_a_setting_of_weights_asks_for_weights(settings: dict[str, Any]) -> None:
    assert WeightConfig(**settings).resolved().method == "irpss"
    assert WeightConfig(**settings, method="none").resolved().method == "none"
    assert WeightConfig(experimental=ExperimentalConfig(rejected_exponent=1.0), tau=1.0).formula == "irpss"
    with pytest.raises(ValueError, match=r"weights\.method is none by weights\.form off, which does not read it"):
        check_weight_settings(WeightConfig(**settings, form="off"))


def test_labels_that_nobody_asked_for_stay_hard_without_irpss() -> None:
    assert WeightConfig().resolved().soft_labels == WeightConfig(method="irpss").resolved().soft_labels == "posterior"
    assert WeightConfig(method="none").resolved().soft_labels == 0
    assert WeightConfig(experimental=ExperimentalConfig(method="rejection")).resolved().soft_labels == 0
    assert WeightConfig(method="none", soft_labels=0.3).resolved().soft_labels == 0.3


def test_soft_labels_reach_their_bounds_at_huge_gaps() -> None:
    assert soft_labels(REWARDS, 0.75)[3:].tolist() == [0.0, 0.75]


def test_strength_zero_leaves_labels_alone() -> None:
    assert np.all(soft_labels(REWARDS, 0.0) == 0.0)


@pytest.mark.slow
@seeded
@given(MANY, st.integers(0, 2**32))
def test_counts_are_the_weight_rounded_down_or_up(pairs: list[tuple[float, int]], seed: int) -> None:
    weight, cluster = np.array([w for w, _ in pairs]), np.array([k for _, k in pairs])
    counts = systematic_counts(weight, cluster, seed=seed)
    assert np.all((counts == np.floor(weight)) | (counts == np.ceil(weight)))


@pytest.mark.slow
@seeded
@given(MANY, st.integers(0, 2**32))
def test_each_cluster_keeps_its_number_of_pairs(pairs: list[tuple[float, int]], seed: int) -> None:
    weight, cluster = np.array([w + 0.1 for w, _ in pairs]), np.array([k for _, k in pairs])
    size = np.bincount(cluster)
    weight /= (np.bincount(cluster, weight) / np.maximum(size, 1))[cluster]
    assert np.array_equal(np.bincount(cluster, systematic_counts(weight, cluster, seed=seed)), size)


@pytest.mark.slow
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


def test_no_gradient_reaches_weights_or_label_smoothing_through_the_loss() -> None:
    made = pair_weights(make_rewards(0, pairs=8, clusters=2), FULL, seed=0)
    assert isinstance(made.weight, np.ndarray) and isinstance(made.label_smoothing, np.ndarray)
    weight, smoothing = (torch.from_numpy(each).requires_grad_() for each in (made.weight, made.label_smoothing))
    logps = torch.randn(48, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    segments = torch.arange(0, 49, 3)
    loss = weighted_preference_loss(logps, segments, None, weight, label_smoothing=smoothing).loss
    loss.backward()
    assert logps.grad is not None and bool(logps.grad.any())
    assert weight.grad is None and smoothing.grad is None
