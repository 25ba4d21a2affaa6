"""Rewards whose levels can be compared: clusters of prompts, heads on frozen features, calibration (MCRM).

Only the abstract of IWPO is public: the formulas are this project's own, chosen to be faithful to it.
"""

from iwpo_fast.rewards.checks import check_reward_settings, uses_likelihood
from iwpo_fast.rewards.clusters import Clusters, fit_clusters
from iwpo_fast.rewards.pair_table import PairTable
from iwpo_fast.rewards.report import RewardReport
from iwpo_fast.rewards.scores import RewardScores, score_pairs, scores_from_columns

__all__ = [
    "Clusters",
    "PairTable",
    "RewardReport",
    "RewardScores",
    "check_reward_settings",
    "fit_clusters",
    "score_pairs",
    "scores_from_columns",
    "uses_likelihood",
]
