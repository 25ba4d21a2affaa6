"""Pairs drawn among the candidates of a prompt."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import chisquare

from iwpo_fast.importance.posterior import candidate_importance
from iwpo_fast.importance.preferred import effective_candidates, posterior_rewards, preferred_pairs
from iwpo_fast.rewards import PairTable

REWARD = np.array([0.3, 1.0, -0.5, 2.0, 0.0, 0.7, -1.0])
PROMPT = np.array([4, 1, 4, 1, 4, 9, 1])  # the candidates of a prompt need not stand together; prompt 9 has one


def test_preferred_samples_and_opponents_have_their_probabilities() -> None:
    draws = 40_000
    for opponent in ("uniform", "importance"):
        pairs = preferred_pairs(REWARD, PROMPT, draws, tau=0.8, opponent=opponent, seed=3)
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
    pairs = preferred_pairs(REWARD, PROMPT, 5, seed=0)
    np.testing.assert_allclose(pairs.label_smoothing, expit(REWARD[pairs.rejected] - REWARD[pairs.chosen]))


def test_no_pair_joins_two_prompts_or_a_response_with_itself_even_where_all_importance_is_one_candidates() -> None:
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 50, 300)
    for scale in (1.0, 1e4):
        for opponent in ("uniform", "importance"):
            pairs = preferred_pairs(scale * rng.normal(size=300), prompt, 7, opponent=opponent, seed=1)
            assert np.all(prompt[pairs.chosen] == prompt[pairs.rejected])
            assert np.all(pairs.chosen != pairs.rejected)
            assert np.all(np.isfinite(pairs.label_smoothing))


def test_a_constant_in_a_prompts_rewards_changes_nothing() -> None:
    shifted = REWARD + np.where(PROMPT == 4, 1e3, -7.0)
    both = (preferred_pairs(reward, PROMPT, 9, seed=2) for reward in (REWARD, shifted))
    for before, after in zip(*both, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-9)


def test_draws_repeat_with_their_seed_and_differ_without() -> None:
    same, again, other = (preferred_pairs(REWARD, PROMPT, 50, seed=seed).chosen for seed in (5, 5, 6))
    assert np.array_equal(same, again)
    assert not np.array_equal(same, other)


def test_prompts_of_one_candidate_and_no_draws_give_no_pairs() -> None:
    assert len(preferred_pairs(REWARD[:2], np.array([0, 1]), 3, seed=0).chosen) == 0
    assert len(preferred_pairs(REWARD, PROMPT, 0, seed=0).chosen) == 0


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
    drawn = rng.choice(4, size=(prompts, candidates), p=ref)
    prompt = np.repeat(np.arange(prompts), candidates)
    pairs = preferred_pairs(reward[drawn].ravel(), prompt, 1, tau=tau, seed=1)
    share = np.bincount(drawn.ravel()[pairs.chosen], minlength=4) / prompts
    target = ref * np.exp(reward / tau)
    np.testing.assert_allclose(share, target / target.sum(), atol=0.02)
