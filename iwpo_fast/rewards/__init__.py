"""Rewards whose levels can be compared: clusters of prompts, heads on frozen features, calibration (MCRM).

Only the abstract of IWPO is public: the formulas are this project's own, chosen to be faithful to it.
"""

from iwpo_fast.config_checks import check_reward_settings
from iwpo_fast.rewards.clusters import Clusters, fit_clusters
from iwpo_fast.rewards.mixture_clusters import cluster_prompts
from iwpo_fast.rewards.pair_table import PairFeatures, PairTable
from iwpo_fast.rewards.report import report_lines
from iwpo_fast.rewards.scores import RewardScores, score_pairs, scores_from_columns, scores_of_responses

__all__ = [
    "Clusters",
    "PairFeatures",
    "PairTable",
    "RewardScores",
    "check_reward_settings",
    "cluster_prompts",
    "fit_clusters",
    "report_lines",
    "score_pairs",
    "scores_from_columns",
    "scores_of_responses",
]
