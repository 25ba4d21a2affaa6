"""How far a probability of being right is from how often one is right."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from iwpo_fast.evaluation.bootstrap import Float64s, Ints, Statistic
from iwpo_fast.evaluation.preference import wins

BINS = 10


def calibration_error(margins: Float64s, bins: int = BINS) -> Statistic:
    """Expected calibration error of the preferences that margins say, for any weights of the pairs.

    A margin m, in log-odds, says that the better completion of a pair is the better one with probability σ(|m|). The
    error is Σ_b w_b |confidence_b - accuracy_b| (Guo et al. 2017) over bins of equally many pairs, as Nguyen and
    O'Connor (2015) make them; the share w_b is that of a bin. Where pairs are few it is above 0 by chance alone, and
    `error_by_chance` says how far.

    Args:
        margins: float64 [n], of the chosen over the rejected completion.
        bins: at most so many.
    """
    confidence, right = expit(np.abs(margins)), wins(margins)
    place = _bins(confidence, bins)

    def error(weights: Float64s) -> float:
        gaps = np.bincount(place, weights=weights * (confidence - right))
        total = float(weights.sum())
        return float(np.abs(gaps).sum()) / total if total else np.nan

    return error


def reliability_curve(margins: Float64s, bins: int = BINS) -> tuple[Float64s, Float64s, Ints]:
    """The points whose distances from the diagonal `calibration_error` averages, for one or more pairs.

    Returns:
        Of each bin, the surest last: mean probability of being right that margins [n] say, share that is right, and
        number of pairs.
    """
    confidence, right = expit(np.abs(margins)), wins(margins)
    place = _bins(confidence, bins)
    pairs = np.bincount(place)
    return np.bincount(place, confidence) / pairs, np.bincount(place, right) / pairs, pairs


def error_by_chance(margins: Float64s, seed: int, bins: int = BINS, draws: int = 200) -> float:
    """The mean error that margins of this size would have if they were right: with labels drawn from their own
    probabilities."""
    confidence = expit(np.abs(margins))
    place, rng = _bins(confidence, bins), np.random.default_rng(seed)
    right = rng.random((draws, len(margins))) < confidence
    errors = [np.abs(np.bincount(place, weights=confidence - of_draw)).sum() / len(margins) for of_draw in right]
    return float(np.mean(errors))


def _bins(confidence: Float64s, bins: int) -> Ints:
    """int64 [n]: the bin of each pair, as many in every bin as can be."""
    place = np.empty(len(confidence), dtype=np.int64)
    bins = max(1, min(bins, len(confidence)))
    place[np.argsort(confidence, kind="stable")] = np.arange(len(confidence)) * bins // max(1, len(confidence))
    return place
