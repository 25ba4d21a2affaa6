"""Chosen completions are winners of comparisons: how much oftener than drawn a completion is chosen.

The winner of a comparison of two completions from μ, labelled by σ(r - r'), comes from μ(y) E[2 σ(r - r')]. So the
importance of a chosen completion for a target over μ is divided by that expectation. An addition of this project to
IWPO, of which only an abstract is public.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from iwpo_fast.data.ragged import positions_of
from iwpo_fast.importance.experimental import log_mean_exp
from iwpo_fast.importance.types import PairRewards

QUANTILES = 256
"""Of a cluster's rewards. The expectation over them errs by 1 / QUANTILES at most, because 2 σ rises from 0 to 2."""


def log_selection(rewards: PairRewards, against: Literal["none", "cluster", "candidates"]) -> np.ndarray:
    """log E[2 σ(r_w - r')] of each pair [P], with r' the reward of another completion from the same proposal.

    Args:
        against: where r' is from: all completions of the cluster, by their quantiles, or all candidates of the prompt,
            the chosen one among them; `none` gives 0.

    Raises:
        ValueError: `candidates` without any.
    """
    if against == "none":
        return np.zeros(len(rewards))
    if rewards.candidates is None or rewards.prompt is None:
        if against == "candidates":
            raise ValueError(
                "weights.experimental.selection is candidates, but there are none: set it to cluster, or score all "
                "completions."
            )
        reward, cluster = np.concatenate([rewards.chosen, rewards.rejected]), np.tile(rewards.cluster, 2)
        return _log_wins_in_clusters(rewards, reward, cluster)
    reward, prompt = rewards.candidates
    cluster_of_prompt = np.full(max(int(rewards.prompt.max()), int(prompt.max())) + 1, -1)
    cluster_of_prompt[rewards.prompt] = rewards.cluster
    if against == "cluster":
        return _log_wins_in_clusters(rewards, reward, cluster_of_prompt[prompt])
    return _log_wins_in_prompts(rewards, reward, prompt)


def _log_wins_in_clusters(rewards: PairRewards, reward: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    wins = np.empty(len(rewards))
    for k in np.unique(rewards.cluster):
        inside = rewards.cluster == k
        total = np.full(int(inside.sum()), -np.inf)
        for other in np.quantile(reward[cluster == k], levels, method="inverted_cdf"):
            total = np.logaddexp(total, _log_twice_sigmoid(rewards.chosen[inside] - other))
        wins[inside] = total - np.log(QUANTILES)
    return wins


def _log_wins_in_prompts(rewards: PairRewards, reward: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    assert rewards.prompt is not None
    order = np.argsort(prompt, kind="stable")
    first = np.searchsorted(prompt[order], rewards.prompt)
    count = np.searchsorted(prompt[order], rewards.prompt, side="right") - first
    pair = np.repeat(np.arange(len(rewards)), count)
    others = reward[order][positions_of(first, count)]
    return log_mean_exp(_log_twice_sigmoid(rewards.chosen[pair] - others), pair, len(rewards))


def _log_twice_sigmoid(gap: np.ndarray) -> np.ndarray:
    return np.log(2) - np.logaddexp(0.0, -gap)
