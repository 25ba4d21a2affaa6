"""Pairs drawn among the candidates of a prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax, softmax
from scipy.stats import chisquare

from iwpo_fast.config import WeightConfig
from iwpo_fast.config_checks import check_weight_settings
from iwpo_fast.importance import Candidates, PairRewards, pair_weights
from iwpo_fast.importance.labels import LARGEST_VARIANCE, gap_variance, label_shift
from iwpo_fast.importance.posterior import candidate_importance
from iwpo_fast.importance.preferred import (
    Preferred,
    PreferredPairs,
    Proposal,
    draw_preferred,
    effective_candidates,
    posterior_rewards,
    preferred_pairs,
)
from iwpo_fast.rewards import PairTable

REWARD = np.array([0.3, 1.0, -0.5, 2.0, 0.0, 0.7, -1.0])
PROMPT = np.array([4, 1, 4, 1, 4, 9, 1])  # the candidates of a prompt need not stand together; prompt 9 has one


def drawn(reward, prompt, draws: int, *, tau: float = 1.0, opponent: str = "uniform", seed: int = 0) -> PreferredPairs:
    q = candidate_importance(reward, prompt, tau=tau)
    return preferred_pairs(reward, prompt, q, np.ones_like(q) if opponent == "uniform" else q, draws, seed=seed)


def test_preferred_samples_and_opponents_have_their_probabilities() -> None:
    draws = 40_000
    for opponent in ("uniform", "importance"):
        pairs = drawn(REWARD, PROMPT, draws, tau=0.8, opponent=opponent, seed=3)
        assert len(pairs.chosen) == 2 * draws
        for rows in ([0, 2, 4], [1, 3, 6]):
            q = softmax(REWARD[rows] / 0.8)
            inside = np.isin(pairs.chosen, rows)
            expected, found = [], []
            for i, j in ((i, j) for i in range(3) for j in range(3) if i != j):
                share = 0.5 if opponent == "uniform" else q[j] / (1 - q[i])
                expected.append(draws * q[i] * share)
                found.append(np.sum((pairs.chosen[inside] == rows[i]) & (pairs.rejected[inside] == rows[j])))
            assert sum(found) == draws
            assert chisquare(found, expected).pvalue > 1e-3


def test_labels_are_the_odds_of_the_rewards() -> None:
    pairs = drawn(REWARD, PROMPT, 5, seed=0)
    np.testing.assert_allclose(pairs.label_smoothing, expit(REWARD[pairs.rejected] - REWARD[pairs.chosen]))


def test_no_pair_joins_two_prompts_or_a_response_with_itself_even_where_all_importance_is_one_candidates() -> None:
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 50, 300)
    for scale in (1.0, 1e4):
        for opponent in ("uniform", "importance"):
            pairs = drawn(scale * rng.normal(size=300), prompt, 7, opponent=opponent, seed=1)
            assert np.all(prompt[pairs.chosen] == prompt[pairs.rejected])
            assert np.all(pairs.chosen != pairs.rejected)
            assert np.all(np.isfinite(pairs.label_smoothing))


def test_a_constant_in_a_prompts_rewards_changes_nothing() -> None:
    shifted = REWARD + np.where(PROMPT == 4, 1e3, -7.0)
    both = (drawn(reward, PROMPT, 9, seed=2) for reward in (REWARD, shifted))
    for before, after in zip(*both, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-9)


def test_draws_repeat_with_their_seed_and_differ_without() -> None:
    same, again, other = (drawn(REWARD, PROMPT, 50, seed=seed).chosen for seed in (5, 5, 6))
    assert np.array_equal(same, again)
    assert not np.array_equal(same, other)


def test_prompts_of_one_candidate_and_no_draws_give_no_pairs() -> None:
    assert len(drawn(REWARD[:2], np.array([0, 1]), 3, seed=0).chosen) == 0
    assert len(drawn(REWARD, PROMPT, 0, seed=0).chosen) == 0


def test_compared_responses_take_half_of_their_shift_each_and_the_others_none() -> None:
    table = PairTable(
        prompt=np.array([0, 0]), chosen=np.array([1, 1]), rejected=np.array([0, 3]), prompt_of=np.zeros(5, np.int64)
    )
    moved = posterior_rewards(np.zeros(5), table, np.array([2.0, 4.0]))
    assert moved.tolist() == [-1.0, 3.0, 0.0, -2.0, 0.0]


def test_effective_candidates_count_those_that_share_the_importance() -> None:
    q = candidate_importance(np.array([0.0, 0.0, 0.0, 50.0, 0.0]), np.array([7, 7, 7, 2, 2]))
    assert effective_candidates(q, np.array([7, 7, 7, 2, 2])) == pytest.approx([1.0, 3.0])


def test_preferred_samples_recover_the_target_of_a_small_problem() -> None:
    """A policy fitted to preferred samples by maximum likelihood is π_ref exp(r/τ), up to the sampling error."""
    rng = np.random.default_rng(0)
    ref, reward, tau = np.array([0.1, 0.4, 0.3, 0.2]), np.array([1.0, -0.5, 0.5, 0.0]), 0.7
    prompts, candidates = 20_000, 64
    samples = rng.choice(4, size=(prompts, candidates), p=ref)
    prompt = np.repeat(np.arange(prompts), candidates)
    pairs = drawn(reward[samples].ravel(), prompt, 1, tau=tau, seed=1)
    share = np.bincount(samples.ravel()[pairs.chosen], minlength=4) / prompts
    target = ref * np.exp(reward / tau)
    np.testing.assert_allclose(share, target / target.sum(), atol=0.02)


def world(seed: int, *, prompts: int = 40, candidates: int = 5, size: float = 1.0) -> tuple[PairRewards, PairTable]:
    """Random rewards; the first two candidates of each prompt are a labelled pair, in three clusters of prompts."""
    rng = np.random.default_rng(seed)
    prompt = np.arange(prompts)
    reward = size * rng.normal(size=prompts * candidates)
    table = PairTable(prompt, candidates * prompt, candidates * prompt + 1, np.repeat(prompt, candidates))
    rewards = PairRewards(
        chosen=reward[table.chosen],
        rejected=reward[table.rejected],
        cluster=prompt % 3,
        trust=np.ones(3),
        prompt=prompt,
        candidates=Candidates(reward, table.prompt_of),
        reliability=np.array([0.0, 0.25, 1.0]),
    )
    return rewards, table


def once(table: PairTable) -> Proposal:
    """Every candidate drawn once."""
    ones = np.ones(len(table.prompt_of))
    return Proposal(ones, np.log(ones))


def made(rewards: PairRewards, table: PairTable, proposal: Proposal | None = None, **settings) -> Preferred:
    return draw_preferred(rewards, table, proposal or once(table), 4, WeightConfig(**settings), seed=0)


def test_drawn_pairs_weigh_what_their_cluster_is_reliable_and_nothing_where_rewards_know_nothing() -> None:
    rewards, table = world(0)
    preferred = made(rewards, table)
    cluster = table.prompt_of[preferred.pairs.chosen] % 3
    assert set(cluster) == {1, 2}
    assert len(cluster) == 4 * np.sum(rewards.cluster > 0)
    assert np.array_equal(preferred.weight, rewards.reliability[cluster])


def test_rewards_that_know_nothing_anywhere_draw_nothing() -> None:
    rewards, table = world(0)
    nothing = made(replace(rewards, reliability=np.zeros(3)), table)
    assert len(nothing.weight) == len(nothing.pairs.chosen) == 0


def test_a_factor_multiplies_weights_and_leaves_out_the_pairs_that_it_makes_0() -> None:
    preferred = made(*world(0))
    factor = np.where(np.arange(len(preferred.weight)) % 3, 0.5, 0.0)
    times = preferred.times(factor)
    assert 0 < len(times.weight) < len(preferred.weight)
    np.testing.assert_array_equal(times.weight, 0.5 * preferred.weight[factor > 0])
    for before, after in zip(preferred.pairs, times.pairs, strict=True):
        np.testing.assert_array_equal(after, before[factor > 0])
    assert times.q is preferred.q and times.reward is preferred.reward


def test_a_temperature_is_that_of_the_draws_where_nothing_else_reads_it() -> None:
    alone = WeightConfig(form="off", soft_labels="posterior", preferred_pairs=2, tau=0.5)
    rewards, table = world(1)
    check_weight_settings(alone)
    assert np.all(pair_weights(rewards, alone, seed=0).weight == 1)
    assert draw_preferred(rewards, table, once(table), 2, alone, seed=0).tau == 0.5
    for nobody in (replace(alone, preferred_pairs=0), replace(alone, tau="ess")):
        with pytest.raises(ValueError, match=r"^weights\.tau is .*, which does not read it: leave weights\.tau out"):
            check_weight_settings(nobody)


def test_importance_is_of_rewards_with_the_evidence_of_labels_and_at_the_number_tau_or_one() -> None:
    rewards, table = world(1)
    for nu, tau, expected in ((1.0, 0.7, 0.7), (0.5, "ess", 1.0), (3.0, np.inf, np.inf)):
        preferred = made(rewards, table, relative_variance=nu, tau=tau)
        shift = label_shift(rewards, gap_variance(rewards, nu))
        assert np.all(shift > 0)
        reward = posterior_rewards(rewards.candidates.reward, table, shift)
        np.testing.assert_array_equal(preferred.reward, reward)
        for i in range(len(table)):
            rows = np.flatnonzero(table.prompt_of == i)
            np.testing.assert_allclose(preferred.q[rows], softmax(reward[rows] / expected), rtol=1e-12)
        chosen, rejected, flip = preferred.pairs
        np.testing.assert_allclose(flip, expit(reward[rejected] - reward[chosen]), rtol=1e-12)


def test_importance_sums_to_one_and_a_constant_per_prompt_changes_nothing() -> None:
    rewards, table = world(2)
    level = 7 * np.random.default_rng(0).normal(size=len(table))
    shifted = replace(
        rewards,
        chosen=rewards.chosen + level,
        rejected=rewards.rejected + level,
        candidates=rewards.candidates._replace(reward=rewards.candidates.reward + level[table.prompt_of]),
    )
    before, after = made(rewards, table), made(shifted, table)
    np.testing.assert_allclose(np.bincount(table.prompt_of, before.q), 1.0, rtol=1e-12)
    np.testing.assert_allclose(after.q, before.q, rtol=1e-9)
    for found, expected in zip(after.pairs, before.pairs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("opponent", ["uniform", "importance"])
def test_a_candidate_drawn_often_counts_as_often_as_copies_of_it(opponent) -> None:
    rewards, table = world(3, prompts=3)
    draws = np.array([1.0, 1.0, 3.0, 1.0, 1.0] * 3)
    settings = WeightConfig(opponent=opponent)
    exact = replace(rewards, reliability=np.ones(3))
    preferred = draw_preferred(exact, table, Proposal(draws, np.log(draws)), 60_000, settings, seed=1)
    weight = np.exp(preferred.reward[:5]) * draws[:5]
    q = weight / weight.sum()
    np.testing.assert_allclose(preferred.q[:5], q, rtol=1e-12)
    mass = draws[:5] if opponent == "uniform" else q
    chosen, rejected, _ = preferred.pairs
    joint = np.zeros((5, 5))
    np.add.at(joint, (chosen[chosen < 5], rejected[chosen < 5]), 1)
    expected = np.array(
        [[0 if i == j else q[i] * mass[j] / (mass.sum() - mass[i]) for j in range(5)] for i in range(5)]
    )
    off = ~np.eye(5, dtype=bool)
    assert joint.sum() == 60_000 and np.all(np.diag(joint) == 0)
    assert chisquare(joint[off], 60_000 * expected[off]).pvalue > 1e-3


def test_everything_is_finite_for_extreme_rewards() -> None:
    for size in (1e4, 1e-300):
        rewards, table = world(4, size=size)
        for nu in (0.0, 1.0, 1e6):
            for opponent in ("uniform", "importance", "weighed"):
                preferred = made(rewards, table, relative_variance=nu, opponent=opponent)
                numbers = (preferred.reward, preferred.q, preferred.pairs.label_smoothing, preferred.weight)
                assert all(np.isfinite(values).all() for values in numbers)
                assert np.all(preferred.pairs.label_smoothing.astype(np.float32) < 1)
                assert np.all(preferred.pairs.chosen != preferred.pairs.rejected)


def test_the_evidence_of_labels_stays_finite_where_rewards_know_nothing() -> None:
    rewards, _ = world(5)
    shift = label_shift(rewards, np.array([np.inf, 1e9, 1.0]))
    assert np.array_equal(shift, label_shift(rewards, np.array([LARGEST_VARIANCE, LARGEST_VARIANCE, 1.0])))
    assert np.isfinite(shift).all()


def minimum_of_the_loss(
    chosen: np.ndarray, rejected: np.ndarray, flip: np.ndarray, weight: np.ndarray, ref: np.ndarray, beta: float
) -> np.ndarray:
    """The policy over items at which the sum of weight [(1 - ε) ℓ(h) + ε ℓ(-h)] is least, ℓ = -log σ."""
    agree, turned = (np.zeros((len(ref), len(ref))) for _ in range(2))
    np.add.at(agree, (chosen, rejected), weight * (1 - flip))
    np.add.at(turned, (rejected, chosen), weight * flip)
    wins = (agree + turned) / weight.sum()

    def loss(logits: np.ndarray) -> tuple[float, np.ndarray]:
        ratio = beta * (log_softmax(logits) - np.log(ref))
        gap = ratio[:, None] - ratio[None, :]
        slope = -beta * wins * expit(-gap)
        return -float((wins * log_expit(gap)).sum()), slope.sum(1) - slope.sum(0)

    found = minimize(loss, np.zeros(len(ref)), jac=True, method="BFGS", options={"gtol": 1e-9})
    return softmax(found.x)


REF, GOLD = np.array([0.3, 0.25, 0.2, 0.15, 0.1]), np.array([0.0, 1.0, -0.5, 0.5, 1.5])


@pytest.mark.parametrize("candidates", [2, 3, 8])
@pytest.mark.parametrize(("beta", "tau"), [(1.0, 1.0), (0.5, 0.5), (2.0, 2.0), (2.0, 0.5)])
def test_training_on_winners_and_preferred_pairs_recovers_the_target_of_temperature_beta(candidates, beta, tau) -> None:
    """Pairs of draws of π_ref labelled by Bradley-Terry, with exact rewards: π is π_ref exp(r/β), whatever τ is."""
    rng = np.random.default_rng(candidates)
    prompts = 40_000
    items = rng.choice(5, size=(prompts, candidates), p=REF)
    first_wins = rng.random(prompts) < expit(GOLD[items[:, 0]] - GOLD[items[:, 1]])
    prompt = np.arange(prompts)
    first, second = candidates * prompt, candidates * prompt + 1
    table = PairTable(
        prompt, np.where(first_wins, first, second), np.where(first_wins, second, first), np.repeat(prompt, candidates)
    )
    reward, flat = GOLD[items.ravel()], items.ravel()
    rewards = PairRewards(
        chosen=reward[table.chosen],
        rejected=reward[table.rejected],
        cluster=np.zeros(prompts, dtype=np.int64),
        trust=np.ones(1),
        prompt=prompt,
        candidates=Candidates(reward, table.prompt_of),
        reliability=np.ones(1),
    )
    pairs = made(rewards, table, relative_variance=0.0, tau=tau).pairs
    sides = zip((table.chosen, table.rejected), pairs[:2], strict=True)
    chosen, rejected = (np.concatenate([flat[side], flat[d]]) for side, d in sides)
    flip = np.concatenate([np.zeros(prompts), pairs.label_smoothing])
    target = softmax(np.log(REF) + GOLD / beta)
    found = minimum_of_the_loss(chosen, rejected, flip, np.ones(len(flip)), REF, beta)
    np.testing.assert_allclose(found, target, atol=0.02)
    alone = slice(prompts, None)  # soft labels of exact rewards have no sampling error
    found = minimum_of_the_loss(chosen[alone], rejected[alone], flip[alone], np.ones(4 * prompts), REF, beta)
    np.testing.assert_allclose(found, target, atol=1e-5)


def test_pairs_are_drawn_inside_the_prompts_of_readers_where_the_table_takes_two_for_one() -> None:
    rewards, table = world(0, candidates=4)
    apart = np.where(np.arange(160) < 2, 40, table.prompt_of)
    settings, certain = WeightConfig(), replace(rewards, reliability=np.ones(3))
    every, split = (
        draw_preferred(certain, table, once(table), 50, settings, seed=0, prompt_of=prompt_of)
        for prompt_of in (None, apart)
    )
    crossed, inside = (apart[made.pairs.chosen] != apart[made.pairs.rejected] for made in (every, split))
    assert crossed.any() and not inside.any()
    assert np.array_equal(np.bincount(apart[split.pairs.chosen]), np.full(41, 50))
    assert np.array_equal(split.prompt_of, apart)
