from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from importance_cases import FULL, PURE, by_method, changed, make_candidate_rewards, make_rewards

from iwpo_fast.importance import Candidates, PairRewards, pair_weights
from iwpo_fast.importance.experimental import log_alpha_ratio, log_levels, pair_risk, reliability


def shifted_by_prompt(rewards: PairRewards, shift: np.ndarray) -> PairRewards:
    assert rewards.candidates is not None and rewards.prompt is not None
    return replace(
        rewards,
        chosen=rewards.chosen + shift[rewards.prompt],
        rejected=rewards.rejected + shift[rewards.prompt],
        candidates=Candidates(rewards.candidates.reward + shift[rewards.candidates.prompt], rewards.candidates.prompt),
    )


def test_group_importance_of_the_candidates_of_each_prompt_has_mean_one() -> None:
    rewards = make_candidate_rewards(0)
    candidates = rewards.candidates
    assert candidates is not None
    each_chosen_once = PairRewards(
        chosen=candidates.reward,
        rejected=np.zeros(len(candidates.reward)),
        cluster=np.zeros(len(candidates.reward), dtype=np.int64),
        trust=np.ones(1),
        prompt=candidates.prompt,
        candidates=candidates,
    )
    weight = pair_weights(each_chosen_once, changed(PURE, baseline="group"), seed=0).weight
    softmax = np.exp(candidates.reward.reshape(-1, 4) / PURE.tau)
    softmax /= softmax.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weight.reshape(-1, 4), 4 * softmax, rtol=1e-12)


def test_group_weights_do_not_see_a_shift_of_the_rewards_of_a_prompt() -> None:
    rewards = make_candidate_rewards(1)
    shifted = shifted_by_prompt(rewards, np.random.default_rng(0).normal(scale=10, size=100))
    for exponent in (0.0, 0.5):
        settings = changed(FULL, baseline="group", rejected_exponent=exponent)
        before, after = (pair_weights(given, settings, seed=0).weight for given in (rewards, shifted))
        np.testing.assert_allclose(after, before, rtol=1e-11)
    assert not np.allclose(pair_weights(rewards, FULL, seed=0).weight, pair_weights(shifted, FULL, seed=0).weight)


def test_shrunk_weights_do_not_see_a_shift_of_the_rewards_of_a_cluster() -> None:
    rewards = make_candidate_rewards(2)
    shift = np.zeros(100)
    shift[rewards.prompt] = 7.0 * rewards.cluster - 3.0
    settings = changed(FULL, baseline="shrunk")
    before, after = (pair_weights(r, settings, seed=0).weight for r in (rewards, shifted_by_prompt(rewards, shift)))
    np.testing.assert_allclose(after, before, rtol=1e-11)


def test_shrunk_is_the_group_where_levels_of_prompts_are_far_apart() -> None:
    rewards = shifted_by_prompt(make_candidate_rewards(3), np.random.default_rng(1).normal(scale=1e4, size=100))
    shrunk, group = (
        pair_weights(rewards, changed(PURE, baseline=b, tau=1e4), seed=0).weight for b in ("shrunk", "group")
    )
    np.testing.assert_allclose(shrunk, group, rtol=1e-6)


def test_shrunk_is_the_cluster_where_all_prompts_have_the_same_candidates() -> None:
    prompts = 50
    rewards = PairRewards(
        chosen=np.resize([2.0, 0.5], prompts),
        rejected=np.full(prompts, -1.0),
        cluster=np.arange(prompts) % 2,
        trust=np.ones(2),
        prompt=np.arange(prompts),
        candidates=Candidates(np.tile([-1.0, 0.5, 2.0], prompts), np.repeat(np.arange(prompts), 3)),
    )
    shrunk, cluster = (pair_weights(rewards, changed(FULL, baseline=b), seed=0).weight for b in ("shrunk", "cluster"))
    np.testing.assert_allclose(shrunk, cluster, rtol=1e-12)


def test_reliability_of_groups_of_equal_size_is_one_minus_the_inverse_f_ratio() -> None:
    """The textbook identity of the balanced analysis of variance, cluster by cluster."""
    rng = np.random.default_rng(2)
    reward = rng.normal(size=(60, 4)) + rng.normal(size=(60, 1))
    cluster = np.repeat([0, 1], [25, 35])
    kappa = reliability(reward.ravel(), np.repeat(np.arange(60), 4), np.repeat(cluster, 4))
    for k in (0, 1):
        inside = reward[cluster == k]
        between = 4 * inside.mean(axis=1).var(ddof=1)
        within = inside.var(axis=1, ddof=1).mean()
        np.testing.assert_allclose(kappa[cluster == k], 1 - within / between, rtol=1e-12)


def test_reliability_finds_the_variances_of_groups_of_unequal_size() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(2, 9, 4000)
    prompt = np.repeat(np.arange(4000), sizes)
    reward = 1.0 * rng.normal(size=4000)[prompt] + 2.0 * rng.normal(size=len(prompt))
    kappa = reliability(reward, prompt, np.zeros(len(prompt), dtype=np.int64))
    np.testing.assert_allclose(kappa, 1 / (1 + 4 / sizes), atol=0.03)


def test_shrunk_levels_follow_a_shift_of_all_rewards_with_groups_of_unequal_size() -> None:
    """The more candidates a prompt has, the less of the cluster's level enters; both must shift."""
    rng = np.random.default_rng(5)
    prompt = np.repeat(np.arange(50), rng.integers(2, 9, 50))
    reward = rng.normal(size=50)[prompt] + rng.normal(size=len(prompt))
    rewards = PairRewards(
        reward[:50], reward[50:100], np.arange(50) % 2, np.ones(2), np.arange(50), Candidates(reward, prompt)
    )
    shifted = shifted_by_prompt(rewards, np.full(50, 3.0))
    before, after = (log_levels(given, "shrunk")(2.0) for given in (rewards, shifted))
    np.testing.assert_allclose(after - before, 1.5, rtol=1e-12)


def test_levels_ignore_the_order_of_candidates_and_candidates_of_other_prompts() -> None:
    rewards = make_candidate_rewards(4)
    candidates = rewards.candidates
    assert candidates is not None
    order = np.random.default_rng(4).permutation(len(candidates.reward) + 3)
    more = Candidates(
        np.append(candidates.reward, [50.0, 60.0, 70.0])[order], np.append(candidates.prompt, [100, 100, 102])[order]
    )
    for baseline in ("group", "shrunk"):
        np.testing.assert_allclose(
            log_levels(replace(rewards, candidates=more), baseline)(2.0),
            log_levels(rewards, baseline)(2.0),
            rtol=1e-12,
            atol=1e-12,
        )


@pytest.mark.parametrize("baseline", ["group", "shrunk"])
def test_a_baseline_without_candidates_is_refused(baseline: str) -> None:
    with pytest.raises(
        ValueError, match=f"weights.experimental.baseline is {baseline}, but there are no candidates: set it to cluster"
    ):
        pair_weights(make_rewards(0), changed(FULL, baseline=baseline), seed=0)


@pytest.mark.parametrize("baseline", ["group", "shrunk"])
def test_a_baseline_with_one_candidate_for_a_prompt_is_refused(baseline: str) -> None:
    """A group of one would be compared with itself."""
    rewards = PairRewards(
        chosen=np.ones(2),
        rejected=np.zeros(2),
        cluster=np.zeros(2, dtype=np.int64),
        trust=np.ones(1),
        prompt=np.arange(2),
        candidates=Candidates(np.array([1.0, 0.0, 1.0]), np.array([0, 0, 1])),
    )
    with pytest.raises(
        ValueError,
        match=f"weights.experimental.baseline is {baseline}, but a pair's prompt has fewer than two candidates",
    ):
        pair_weights(rewards, changed(FULL, baseline=baseline), seed=0)
    assert np.all(pair_weights(rewards, FULL, seed=0).weight == 1.0)


def test_the_kl_ratio_of_scale_one_is_irpss_with_the_label_probability_alone() -> None:
    """exp(-softplus(-Δ)) = σ(Δ)."""
    rewards = make_rewards(0)
    ratio = pair_weights(rewards, by_method("density_ratio"), seed=0).weight
    irpss = pair_weights(rewards, replace(FULL, tau=np.inf, gamma=1.0), seed=0).weight
    np.testing.assert_allclose(ratio, irpss, rtol=1e-12)


def test_the_kl_ratio_falls_by_a_factor_e_over_its_scale() -> None:
    rewards = make_rewards(1, clusters=1)
    weight = pair_weights(rewards, by_method("density_ratio", ratio_scale=2.5, truncate=np.inf), seed=0).weight
    log_weight = np.log(weight) + pair_risk(rewards) / 2.5
    np.testing.assert_allclose(log_weight, log_weight[0], rtol=1e-10)


@pytest.mark.parametrize("scale", [0.3, 1.0, 10.0])
def test_rejection_of_order_three_is_linear_in_the_risk_down_to_zero(scale: float) -> None:
    """ρ = (b - ℓ/λ)_+, with b in closed form from the number of kept pairs."""
    rewards = make_rewards(2)
    settings = by_method("rejection", ratio_scale=scale, truncate=np.inf)
    weight = pair_weights(rewards, settings, seed=0).weight
    for k in range(rewards.clusters):
        inside = rewards.cluster == k
        risk = np.logaddexp(0, -rewards.gap[inside]) / scale
        ordered = np.sort(risk)
        levels = (len(risk) + np.cumsum(ordered)) / np.arange(1, len(risk) + 1)
        b = levels[np.flatnonzero(levels > ordered)[-1]]
        np.testing.assert_allclose(weight[inside], np.maximum(b - risk, 0), rtol=1e-9, atol=1e-12)
    assert np.any(weight == 0) == (scale < 10)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0, 6.0])
def test_the_alpha_ratio_has_its_form_and_mean_one(alpha: float) -> None:
    rewards = make_rewards(3, clusters=1)
    risk = pair_risk(rewards)
    ratio = np.exp(log_alpha_ratio(risk, rewards.cluster, 1, scale=0.7, alpha=alpha))
    assert ratio.mean() == pytest.approx(1, rel=1e-9)
    kept = ratio > 0
    b = 2 / (alpha - 1) * ratio[kept] ** ((alpha - 1) / 2) + risk[kept] / 0.7
    np.testing.assert_allclose(b, b[0], rtol=1e-10)
    assert np.all(risk[~kept] / 0.7 >= b[0] * (1 - 1e-10))


def test_the_alpha_ratio_tends_to_the_kl_ratio_as_alpha_tends_to_one() -> None:
    rewards = make_rewards(4)
    alpha = pair_weights(rewards, by_method("rejection", ratio_alpha=1.001), seed=0).weight
    kl = pair_weights(rewards, by_method("density_ratio"), seed=0).weight
    np.testing.assert_allclose(alpha, kl, atol=0.01)
