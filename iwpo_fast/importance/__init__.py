"""Importance weights of preference pairs: IRPSS and its alternatives, trust-scaled soft labels, resampling, reports.

From calibrated rewards to one weight and one label smoothing per pair, all in NumPy float64. Only the abstract of IWPO
is public: the formulas are this project's own, chosen to be faithful to it.
"""

from iwpo_fast.config_checks import check_weight_settings
from iwpo_fast.importance.effective_size import noise_share
from iwpo_fast.importance.report import report_lines, save_histogram, weight_report
from iwpo_fast.importance.types import Candidates, PairRewards, PairWeights, pair_rewards
from iwpo_fast.importance.weights import pair_weights

__all__ = [
    "Candidates",
    "PairRewards",
    "PairWeights",
    "check_weight_settings",
    "noise_share",
    "pair_rewards",
    "pair_weights",
    "report_lines",
    "save_histogram",
    "weight_report",
]
