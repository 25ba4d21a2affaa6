"""Reward models of a world: the library's, with the settings of the exact laboratory, and the truth."""

from __future__ import annotations

from iwpo_fast.importance import pair_rewards
from iwpo_fast.rewards import fit_clusters, score_pairs
from lab.exact.rewards import REWARD_MODELS, PairScores, true_scores
from lab.language_model.world import LabWorld


def score(world: LabWorld, model: str) -> PairScores:
    """Rewards of the pairs: one of `REWARD_MODELS`, or `oracle`."""
    if model == "oracle":
        return true_scores(world.gold, world.task, len(world.scale))
    settings, cluster_settings = REWARD_MODELS[model]
    features, table = world.features, world.features.table
    clusters = fit_clusters(
        features.prompt, table.pairs_per_prompt(len(features.prompt)), cluster_settings, seed=world.seed
    )
    cluster = clusters.assign(features.prompt)
    scores = score_pairs(features, cluster, settings, seed=world.seed)
    members = scores.members_calibrated
    rewards = pair_rewards(scores.calibrated, scores.trust, table, cluster, members, scores.reliability)
    return PairScores(rewards, members[table.chosen] - members[table.rejected])
