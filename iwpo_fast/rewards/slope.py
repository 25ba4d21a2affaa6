"""One-dimensional logistic fit: which multiple of a reward gap is the log-odds of the label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit


def logistic_slope(gaps: NDArray[np.floating], weights: NDArray[np.floating] | None = None) -> float:
    """argmin over s >= 0 of mean [t softplus(-s Δ) + (1 - t) softplus(s Δ)], with t = (n + 1) / (n + 2).

    The target t is Platt's (1999): it keeps the slope finite where all labels agree with the rewards.

    Args:
        gaps: [n], reward of the chosen minus reward of the rejected response.
        weights: [n], of the pairs; their sum does not matter.

    Returns:
        The slope, in units of 1 / gap; 0 where the rewards say nothing, or the opposite of the labels.
    """
    weights = np.ones(len(gaps)) if weights is None else weights
    used = (weights > 0) & (gaps != 0)
    gaps, weights = gaps[used].astype(np.float64), weights[used].astype(np.float64)
    if not len(gaps) or weights @ gaps <= 0:
        return 0.0
    scale = np.sqrt(weights @ gaps**2 / weights.sum())
    gaps, weights = gaps / scale, weights / weights.sum()
    flipped = 1 / (len(gaps) + 2)

    def derivative(s: float) -> float:
        return float(weights @ (gaps * (flipped - expit(-s * gaps))))

    high = 1.0
    while derivative(high) < 0:
        high *= 2
    return float(brentq(derivative, 0.0, high, rtol=1e-10) / scale)


def logistic_loss(gaps: NDArray[np.floating], slope: float = 1.0) -> float:
    """Mean of softplus(-slope Δ), in nats."""
    return float(np.logaddexp(0.0, -slope * gaps.astype(np.float64)).mean()) if len(gaps) else float(np.log(2))
