"""How far a probability of being right is from how often one is right."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from iwpo_fast.evaluation.bootstrap import Float64s, Statistic
from iwpo_fast.evaluation.preference import wins

BINS = 10


def calibration_error(margins: Float64s, bins: int = BINS) -> Statistic:
    """Expected calibration error of the preferences that margins say, for any weights of the pairs.

    A margin m, in log-odds, says that the better completion of a pair is the better one with probability σ(|m|). The
    error is Σ_b w_b |confidence_b - accuracy_b| (Guo et al. 2017) over bins of equally many pairs, as Nguyen and
    O'Connor (2015) make them; the share w_b is that of a bin. Where pairs are few it is above 0 by chance alone.

    Args:
        margins: float64 [n], of the chosen over the rejected completion.
        bins: at most so many.
    """
    confidence, right = expit(np.abs(margins)), wins(margins)
    bins = max(1, min(bins, len(margins)))
    place = np.empty(len(margins), dtype=np.int64)
    place[np.argsort(confidence, kind="stable")] = np.arange(len(margins)) * bins // max(1, len(margins))

    def error(weights: Float64s) -> float:
        gaps = np.bincount(place, weights=weights * (confidence - right), minlength=bins)
        total = float(weights.sum())
        return float(np.abs(gaps).sum()) / total if total else np.nan

    return error
