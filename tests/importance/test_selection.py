"""Chosen completions have won a comparison, and importance can divide by how often such ones win."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from importance_cases import PURE, changed, make_candidate_rewards, make_rewards
from scipy.special import expit, softmax

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance import Candidates, PairRewards, pair_weights
from iwpo_fast.importance.selection import QUANTILES, log_selection

REF, GOLD = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 1.5, -1.0, 0.8])


def winners(candidates: int, prompts: int = 60_000) -> tuple[PairRewards, np.ndarray]:
    """Winners of Bradley-Terry comparisons of two draws of REF, among more draws; and which item each chosen one is."""
    rng = np.random.default_rng(candidates)
    items = rng.choice(4, size=(prompts, candidates), p=REF)
    first_wins = rng.random(prompts) < expit(GOLD[items[:, 0]] - GOLD[items[:, 1]])
    chosen = np.where(first_wins, items[:, 0], items[:, 1])
    rejected = np.where(first_wins, items[:, 1], items[:, 0])
    prompt = np.arange(prompts)
    everything = Candidates(GOLD[items].ravel(), np.repeat(prompt, candidates))
    cluster = np.zeros(prompts, dtype=np.int64)
    rewards = PairRewards(GOLD[chosen], GOLD[rejected], cluster, np.ones(1), prompt, everything)
    return rewards, chosen


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("selection", "candidates"), [("cluster", 2), ("candidates", 100)])
def test_weighted_winners_recover_the_target_and_without_selection_miss_it(tau, selection, candidates) -> None:
    rewards, item = winners(candidates, 60_000 if candidates == 2 else 20_000)
    target = softmax(np.log(REF) + GOLD / tau)
    shares = []
    for how in (selection, "none"):
        weight = pair_weights(rewards, changed(PURE, tau=tau, selection=how), seed=0).weight
        shares.append(np.bincount(item, weight, minlength=4) / weight.sum())
    np.testing.assert_allclose(shares[0], target, atol=0.015)
    assert np.abs(shares[1] - target).max() > 0.03


def test_quantiles_of_a_cluster_err_by_less_than_their_share() -> None:
    for size in (0.1, 1.5, 40.0, 1e4):
        rewards = make_rewards(3, pairs=900, size=size)
        found = np.exp(log_selection(rewards, "cluster"))
        for k in range(rewards.clusters):
            inside = rewards.cluster == k
            of_cluster = np.concatenate([rewards.chosen[inside], rewards.rejected[inside]])
            exact = 2 * expit(rewards.chosen[inside][:, None] - of_cluster).mean(1)
            assert np.abs(found[inside] - exact).max() <= 1 / QUANTILES


def test_candidates_of_the_prompt_alone_are_compared_in_any_order() -> None:
    rewards = make_candidate_rewards(0)
    reward, prompt = rewards.candidates
    expected = [2 * expit(r - reward[prompt == x]).mean() for r, x in zip(rewards.chosen, rewards.prompt, strict=True)]
    np.testing.assert_allclose(np.exp(log_selection(rewards, "candidates")), expected, rtol=1e-12)
    order = np.random.default_rng(0).permutation(len(reward))
    mixed = replace(rewards, candidates=Candidates(reward[order], prompt[order]))
    for how in ("cluster", "candidates"):
        np.testing.assert_allclose(log_selection(mixed, how), log_selection(rewards, how), rtol=1e-12)


@pytest.mark.parametrize("selection", ["cluster", "candidates"])
def test_selection_is_finite_for_extreme_rewards(selection) -> None:
    rewards = make_candidate_rewards(1)
    big = replace(
        rewards,
        chosen=1e4 * rewards.chosen,
        rejected=1e4 * rewards.rejected,
        candidates=rewards.candidates._replace(reward=1e4 * rewards.candidates.reward),
    )
    assert np.isfinite(log_selection(big, selection)).all()
    assert np.isfinite(pair_weights(big, changed(PURE, selection=selection), seed=0).weight).all()


def test_candidates_that_are_not_there_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"selection is candidates, but there are none: set it to cluster"):
        log_selection(make_rewards(0), "candidates")


def test_selection_with_a_temperature_that_may_vanish_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weights\.experimental\.selection is cluster and weights\.ess_target is noi"):
        pair_weights(make_rewards(0), changed(WeightConfig(), selection="cluster"), seed=0)
    with pytest.raises(ValueError, match=r"experimental\.selection is cluster and weights\.method is none"):
        pair_weights(make_rewards(0), changed(WeightConfig(method="none"), selection="cluster"), seed=0)
