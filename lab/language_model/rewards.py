"""Reward models of a world: the library's, with the settings of the exact laboratory, and the truth."""

from __future__ import annotations

import numpy as np

from iwpo_fast.config import RewardConfig
from iwpo_fast.importance import PairRewards, pair_rewards
from iwpo_fast.rewards import fit_clusters, score_pairs
from lab.exact.rewards import REWARD_MODELS, PairScores
from lab.language_model.world import LabWorld


def score(world: LabWorld, model: str) -> PairScores:
    """Rewards of the pairs: one of `REWARD_MODELS`, or `oracle`."""
    if model == "oracle":
        return _oracle(world)
    settings, cluster_settings = REWARD_MODELS[model]
    features, table = world.features, world.features.table
    clusters = fit_clusters(
        features.prompt, table.pairs_per_prompt(len(features.prompt)), cluster_settings, seed=world.seed
    )
    cluster = clusters.assign(features.prompt)
    scores = score_pairs(
        features.response,
        table,
        cluster,
        settings,
        seed=world.seed,
        mean_logps=features.mean_logps,
        prompt_key=features.prompt_keys,
    )
    members = scores.members_calibrated
    rewards = pair_rewards(scores.calibrated, scores.trust, table, cluster, members)
    return PairScores(rewards, members[table.chosen] - members[table.rejected])


def _oracle(world: LabWorld) -> PairScores:
    """Gold rewards in log-odds, centred in each task and clipped as calibrated rewards are; full trust."""
    count = len(world.scale)
    pairs = np.maximum(np.bincount(world.task, minlength=count), 1)
    centre = np.bincount(world.task, world.gold.mean(1), count) / pairs
    limit = RewardConfig().max_reward
    centred = np.clip(world.gold - centre[world.task][:, None], -limit, limit)
    rewards = PairRewards(centred[:, 0], centred[:, 1], world.task, np.ones(count))
    return PairScores(rewards, rewards.gap[:, None])
