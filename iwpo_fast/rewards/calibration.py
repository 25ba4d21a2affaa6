"""Rewards in log-odds whose levels can be compared across clusters (step 4 of MCRM).

r̃ = clip(s_k (r - a_k), ±5). Only the abstract of IWPO is public; this calibration is the project's own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from iwpo_fast.rewards.blocks import Float64s, Ints
from iwpo_fast.rewards.pair_table import PairTable

LEAST_SLOPE = 0.25


class Calibration(NamedTuple):
    """How raw rewards of G clusters become log-odds, and what is known of them.

    Attributes:
        centre: [G] fp64, a_k, the mean reward of the responses.
        slope: [G] fp64, s_k >= 0, in log-odds per unit of reward.
        trust: [G] fp64 in [0, 1], t_k = min(1, s_k / unit_k), how far the rewards can be trusted.
        reliability: [G] fp64 in [0, 1), how surely the rewards say anything of the labels: 0 where they do not.
    """

    centre: Float64s
    slope: Float64s
    trust: Float64s
    reliability: Float64s

    @classmethod
    def none(cls, clusters: int) -> Calibration:
        """Rewards stay as they are and are fully trusted, because the user says so."""
        return cls(np.zeros(clusters), np.ones(clusters), np.ones(clusters), np.ones(clusters))


def calibrate(rewards: Float64s, cluster: Ints, centre: Float64s, slope: Float64s, limit: float) -> Float64s:
    """Calibrated rewards, fp64, of raw ones ([C] or [C, members]), with centre and slope of their cluster."""
    centre, slope = centre[cluster], slope[cluster]
    if rewards.ndim == 2:
        centre, slope = centre[:, None], slope[:, None]
    return np.clip(slope * (rewards - centre), -limit, limit)


def fit_calibration(
    rewards: Float64s, table: PairTable, prompt_cluster: Ints, unit: Float64s, *, strength: float
) -> Calibration:
    """Calibration of every cluster, from rewards by models that did not see the pairs.

    The slope of a cluster with n pairs is (n ρ_k ŝ_k + strength · ρ ŝ) / (n + strength): its own logistic slope and
    that of all pairs, each times its reliability ρ = max(0, 1 - 1/Λ). Λ is twice the log of the likelihood ratio
    against slope 0, where every prompt counts once: about 1 for rewards that say nothing, whose slope is then near 0,
    and tens or hundreds for an informative cluster. Slopes are pooled in the units of `unit`. The reliability that is
    returned is pooled in the same way, (n ρ_k + strength · ρ) / (n + strength).

    Args:
        rewards: [C].
        prompt_cluster: [M] int64.
        unit: [G], slope that earns full trust: 1 for rewards that were log-odds where they were learnt.
    """
    clusters = len(unit)
    response_cluster, pair_cluster = prompt_cluster[table.prompt_of], prompt_cluster[table.prompt]
    responses = np.bincount(response_cluster, minlength=clusters)
    centre = np.bincount(response_cluster, weights=rewards, minlength=clusters) / np.maximum(responses, 1)
    scaled = (rewards[table.chosen] - rewards[table.rejected]) * unit[pair_cluster]
    pooled_slope, pooled = _slope_and_reliability(scaled, table.prompt)
    slope, reliability = np.empty(clusters), np.empty(clusters)
    for k in range(clusters):
        inside = pair_cluster == k
        pairs = int(inside.sum())
        share = pairs / (pairs + strength) if pairs else 0.0
        own_slope, own = _slope_and_reliability(scaled[inside], table.prompt[inside])
        slope[k] = share * (own_slope * own) + (1 - share) * (pooled_slope * pooled)
        reliability[k] = share * own + (1 - share) * pooled
    return Calibration(centre, slope * unit, np.minimum(1.0, slope), reliability)


def units_of_unknown_scale(gaps: Float64s, pair_cluster: Ints, clusters: int) -> Float64s:
    """Unit [G] of external rewards: their slope over all pairs, after each cluster's gaps are scaled to mean square 1.

    It makes trust independent of the scale that the rewards of a cluster come in. Below `LEAST_SLOPE` (hardly
    more than a guess) rewards earn less than full trust in any case.
    """
    size = np.ones(clusters)
    for k in range(clusters):
        inside = gaps[pair_cluster == k]
        size[k] = np.sqrt(np.mean(inside**2)) if inside.any() else 1.0
    return max(LEAST_SLOPE, logistic_slope(gaps / size[pair_cluster])) / size


def _slope_and_reliability(gaps: Float64s, prompt: Ints) -> tuple[float, float]:
    slope = logistic_slope(gaps)
    ratio = 2 * len(np.unique(prompt)) * (np.log(2) - logistic_loss(gaps, slope))
    return slope, float(max(0.0, 1 - 1 / ratio)) if ratio > 0 else 0.0


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
