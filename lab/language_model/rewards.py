"""Reward models of a world: the library's, with the settings of the exact laboratory, and the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from iwpo_fast.config import ClusterConfig, RewardConfig
from iwpo_fast.importance import pair_rewards
from iwpo_fast.rewards import PairFeatures, fit_clusters, score_pairs
from lab.exact.rewards import REWARD_MODELS, PairScores, learnt, true_scores
from lab.language_model.world import LabWorld


def score(world: LabWorld, model: str) -> PairScores:
    """Rewards of the pairs: one of `REWARD_MODELS`, or `oracle`.

    With `+K` behind the name of a model, it also scores the first K sampled completions.
    """
    if model == "oracle":
        return true_scores(world.gold, world.task, len(world.scale))
    model, _, samples = model.partition("+")
    return score_by(world, *REWARD_MODELS[model], samples=int(samples or 0))


def score_by(world: LabWorld, settings: RewardConfig, cluster_settings: ClusterConfig, *, samples: int) -> PairScores:
    """Rewards of the pairs, and of the first `samples` sampled completions, by a model of these settings."""
    features = world.features if samples else _of_pairs(world)
    table = features.table
    clusters = fit_clusters(
        features.prompt, table.pairs_per_prompt(len(features.prompt)), cluster_settings, seed=world.seed
    )
    cluster = clusters.assign(features.prompt)
    scores = score_pairs(features, cluster, settings, seed=world.seed)
    members = scores.members_calibrated
    rewards = pair_rewards(scores.calibrated, scores.trust, table, cluster, members, scores.reliability)
    gaps = members[table.chosen] - members[table.rejected]
    model = learnt(features, clusters, scores, settings, seed=world.seed)
    responses = np.column_stack([table.chosen, table.rejected, world.sampled[:, :samples]])
    return PairScores(rewards, gaps, scores.calibrated[responses], responses, model)


def _of_pairs(world: LabWorld) -> PairFeatures:
    """Features of chosen and rejected completions alone, which are the first responses."""
    features, table = world.features, world.features.table
    count = 1 + int(max(table.chosen.max(), table.rejected.max()))
    assert features.mean_logps is not None
    return replace(
        features,
        table=replace(table, prompt_of=table.prompt_of[:count]),
        response=features.response[:count],
        mean_logps=features.mean_logps[:count],
    )
