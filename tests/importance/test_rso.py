"""RSO's rejection sampling, as its paper describes it, against the draw that the library has for it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chisquare

from iwpo_fast.importance.posterior import candidate_importance
from iwpo_fast.importance.preferred import PreferredPairs, likelihood_ratio, preferred_pairs

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab.systems.rso import by_rejection_ranked, weighed

REWARD = np.array([0.3, 1.2, -0.8, 0.9])
TAU, DRAWS = 0.7, 30_000


def rejection_slowly(reward: np.ndarray, beta: float, wanted: int, rng: np.random.Generator) -> tuple[list[int], int]:
    """Accepted candidates in order, and how often one was looked at: a random one of those left, with a fresh r_max."""
    accepted: list[int] = []
    left, looks = list(range(len(reward))), 0
    while len(accepted) < wanted:
        looks += 1
        candidate = left[rng.integers(len(left))]
        if rng.random() < np.exp((reward[candidate] - max(reward[i] for i in left)) / beta):
            accepted.append(candidate)
            left.remove(candidate)
    return accepted, looks


def unordered(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How often each two of four candidates occur."""
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    low, high = np.minimum(first, second), np.maximum(first, second)
    return np.array([np.sum((low == i) & (high == j)) for i, j in pairs])


def expected() -> np.ndarray:
    q = softmax(REWARD / TAU)
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    return np.array([q[i] * q[j] * (1 / (1 - q[i]) + 1 / (1 - q[j])) for i, j in pairs])


@pytest.mark.slow
def test_two_accepted_candidates_of_rso_are_a_pair_drawn_with_opponents_by_importance() -> None:
    rng = np.random.default_rng(0)
    accepted = np.array([rejection_slowly(REWARD, TAU, 2, rng)[0] for _ in range(DRAWS)])
    prompt = np.zeros(4, dtype=np.int64)
    q = candidate_importance(REWARD, prompt, tau=TAU)
    ours = preferred_pairs(REWARD, prompt, q, q, DRAWS, seed=1)
    for first, second in (accepted.T, (ours.chosen, ours.rejected)):
        assert chisquare(unordered(first, second), DRAWS * expected()).pvalue > 1e-3


def test_the_first_acceptance_takes_one_over_the_mean_of_its_rule() -> None:
    rng = np.random.default_rng(2)
    looks = np.mean([rejection_slowly(REWARD, TAU, 1, rng)[1] for _ in range(4000)])
    rate = np.mean(np.exp((REWARD - REWARD.max()) / TAU))
    assert looks == pytest.approx(1 / rate, rel=0.05)


def test_uniform_pairs_weighed_by_importance_have_the_shares_of_rso_and_mean_one() -> None:
    prompt = np.repeat(np.arange(DRAWS), 4)
    reward = np.tile(REWARD, DRAWS)
    drawn, factor = weighed(reward, prompt, candidate_importance(reward, prompt, tau=TAU), 3)
    assert factor.mean() == pytest.approx(1.0, abs=0.02)
    first, second = drawn.chosen % 4, drawn.rejected % 4
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    both = (np.minimum(first, second), np.maximum(first, second))
    share = [factor[(both[0] == i) & (both[1] == j)].sum() / DRAWS for i, j in pairs]
    np.testing.assert_allclose(share, expected(), atol=0.01)


@pytest.mark.parametrize("times", [[1.0, 1.0, 1.0, 1.0], [1.0, 5.0, 2.0, 1.0]])
def test_the_weight_of_a_pair_is_the_ratio_of_its_chances_under_both_draws(times: list[float]) -> None:
    """However often candidates were drawn; each two of one prompt, in either order, beside a prompt of two."""
    q, draws = softmax(REWARD / TAU), np.array(times)
    two = [(i, j) for i in range(4) for j in range(4) if i != j]
    first, second = np.array(two).T

    def chance(share: np.ndarray, i: int, j: int) -> float:
        return float(share[i] * share[j] / (1 - share[i]) + share[j] * share[i] / (1 - share[j]))

    expected = [chance(q, i, j) / chance(draws / draws.sum(), i, j) for i, j in two]
    prompt = np.array([3, 3, 3, 3, 1, 1])
    pairs = PreferredPairs(np.append(first, 4), np.append(second, 5), np.zeros(len(two) + 1))
    found = likelihood_ratio(pairs, prompt, np.append(q, [0.9, 0.1]), np.append(draws, [2.0, 1.0]))
    np.testing.assert_allclose(found, [*expected, 1.0], rtol=1e-12)
    had = [chance(draws / draws.sum(), i, j) / 2 for i, j in two]
    assert found[:-1] @ had == pytest.approx(1.0)


def test_the_weight_stays_right_where_one_candidate_has_all_the_importance() -> None:
    """1 - q has no digits of what is left for the others there."""
    q = np.array([1.0, 3e-30, 1e-30])
    pairs = PreferredPairs(np.array([0, 0, 1]), np.array([1, 2, 2]), np.zeros(3))
    ratio = likelihood_ratio(pairs, np.zeros(3, np.int64), q, np.ones(3))
    np.testing.assert_allclose(ratio, [3 * 0.75, 3 * 0.25, 0.0], atol=1e-12)
    alone = likelihood_ratio(pairs, np.zeros(3, np.int64), np.array([1.0, 0.0, 0.0]), np.ones(3))
    assert np.isfinite(alone).all()


def test_two_candidates_leave_nothing_to_draw() -> None:
    prompt = np.array([0, 0])
    q = candidate_importance(np.array([1.0, -1.0]), prompt)
    drawn, factor = weighed(np.array([1.0, -1.0]), prompt, q, 0)
    assert factor == pytest.approx([1.0]) and {*drawn.chosen, *drawn.rejected} == {0, 1}


def test_ranked_labels_are_hard_and_never_against_the_rewards() -> None:
    prompt = np.repeat(np.arange(200), 4)
    reward = np.random.default_rng(4).normal(size=800)
    drawn, _ = by_rejection_ranked(reward, prompt, candidate_importance(reward, prompt), 5)
    assert np.all(reward[drawn.chosen] >= reward[drawn.rejected]) and not drawn.label_smoothing.any()
