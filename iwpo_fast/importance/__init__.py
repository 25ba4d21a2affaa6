"""Importance weights of preference pairs: IRPSS and its alternatives, trust-scaled soft labels, resampling, reports.

From calibrated rewards to one weight and one label smoothing per pair, all in NumPy float64. Only the abstract of IWPO
is public: the formulas are this project's own, chosen to be faithful to it.
"""

from iwpo_fast.importance.diagnostics import PairText, WeightReport, weight_report
from iwpo_fast.importance.settings import check_weight_settings
from iwpo_fast.importance.types import Candidates, PairRewards, PairWeights
from iwpo_fast.importance.weights import pair_weights

__all__ = [
    "Candidates",
    "PairRewards",
    "PairText",
    "PairWeights",
    "WeightReport",
    "check_weight_settings",
    "pair_weights",
    "weight_report",
]
