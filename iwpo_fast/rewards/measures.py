"""How good rewards are: accuracy, overlap, calibration error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Float64s = NDArray[np.float64]

BINS = 10


def pair_accuracy(gaps: Float64s) -> float:
    """Fraction of pairs whose chosen response has more reward; ties count half. NaN without pairs."""
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean()) if len(gaps) else float("nan")


def overlap(chosen: Float64s, rejected: Float64s) -> float:
    """1 - AUC: probability that a rejected response has more reward than a chosen one, both random; ties count half."""
    if not len(chosen) or not len(rejected):
        return float("nan")
    ordered = np.sort(rejected)
    below = np.searchsorted(ordered, chosen, side="left") + np.searchsorted(ordered, chosen, side="right")
    return float(1 - below.mean() / (2 * len(rejected)))


def calibration_error(gaps: Float64s) -> float:
    """Expected calibration error of "the label is right with probability σ(Δ)", in ten bins of confidence.

    A pair has confidence max(σ(Δ), σ(-Δ)) in whichever response has more reward, and that is right or not.
    """
    if not len(gaps):
        return float("nan")
    confidence = expit(np.abs(gaps))
    right = (gaps > 0) + 0.5 * (gaps == 0)
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(bins, weights=right - confidence, minlength=BINS)).sum() / len(gaps))
