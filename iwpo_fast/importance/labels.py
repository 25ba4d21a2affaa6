"""Soft labels from calibrated rewards: the probability ε that the label of a pair is flipped.

    ε = soft_labels · trust · σ(-Δ)                                          soft_labels
    ε = P(the label is the wrong way round | label, rewards)                 posterior_labels
    Δ̃ - Δ̂, what the label adds to the gap that the rewards expect           label_shift

All are additions of this project to IWPO, of which only an abstract is public.
"""

from __future__ import annotations

import numpy as np

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance.posterior import flip_probability, posterior_shift
from iwpo_fast.importance.types import PairRewards

LARGEST_FLIP = 1 - 2.0**-20
"""Losses take probabilities of a flip below 1, also after they are rounded to float32."""

LARGEST_VARIANCE = 100.0
"""Of a gap, in squared log-odds: with an error of ten log-odds the label stands alone, and its evidence is finite."""


def label_smoothing(rewards: PairRewards, settings: WeightConfig) -> np.ndarray:
    """ε of each pair [P], as the settings, whose form is resolved, ask for it."""
    asked = settings.soft_labels
    assert asked != "auto", "a form sets whatever is auto"
    if asked == "posterior":
        return posterior_labels(rewards, gap_variance(rewards, settings.relative_variance))
    if asked == "grades":  # which only the heads know that the stage `weigh` asks
        return np.zeros(len(rewards))
    return soft_labels(rewards, asked)


def flipped_by_grades(win: np.ndarray) -> np.ndarray:
    """ε [P], from the probability [P] that the chosen response would be graded higher, after DPRM."""
    return np.asarray(np.minimum(1 - win, LARGEST_FLIP))


def soft_labels(rewards: PairRewards, strength: float) -> np.ndarray:
    """ε = strength · t_z · σ(-Δ) of each pair [P]: probability of a flipped label, scaled by the trust in the rewards.

    An addition of this project to IWPO. Where the trust of a cluster is 0, its labels stay as they are.

    Args:
        strength: label smoothing of a pair that fully trusted rewards find mislabelled, in [0, 1).
    """
    return strength * rewards.trust[rewards.cluster] * np.exp(-np.logaddexp(0.0, rewards.gap))


def posterior_labels(rewards: PairRewards, variance: np.ndarray) -> np.ndarray:
    """ε [P]: probability that a label is the wrong way round, given the label and the rewards (`flip_probability`).

    An addition of this project to IWPO.

    Args:
        variance: s² of each cluster [G], of the error of reward gaps (`gap_variance`).
    """
    flips = np.empty(len(rewards))
    for k, of_cluster in enumerate(variance):
        inside = rewards.cluster == k
        flips[inside] = flip_probability(rewards.gap[inside], float(of_cluster))
    return np.minimum(flips, LARGEST_FLIP)


def label_shift(rewards: PairRewards, variance: np.ndarray) -> np.ndarray:
    """Δ̃ - Δ̂ of each pair [P], in log-odds: what its label adds to the mean of its gap (`posterior_shift`).

    An addition of this project to IWPO.

    Args:
        variance: s² of each cluster [G] (`gap_variance`), which is cut to `LARGEST_VARIANCE`.
    """
    finite = np.minimum(variance, LARGEST_VARIANCE)
    return posterior_shift(posterior_labels(rewards, finite), finite[rewards.cluster])


def gap_variance(rewards: PairRewards, nu: float) -> np.ndarray:
    """s² = ν · mean Δ̂² + (1/ρ - 1) of each cluster [G], the mean of all pairs and ρ the reliability of the cluster.

    The first term is an error in proportion to the signal: gaps are in log-odds of labels, so that noise in the labels
    shrinks them all, and an error of fixed size would drown them. The second leads from rewards that know something to
    those that know nothing, whose gaps are near 0 and would make a coin of every label: there the label alone counts.
    Its unit, 1, is the squared log-odds over which σ turns.

    Args:
        nu: ν, from 0 (the rewards alone) to infinity (the labels alone).
    """
    reliability = rewards.trust if rewards.reliability is None else rewards.reliability
    if np.isinf(nu):
        return np.full(rewards.clusters, np.inf)
    with np.errstate(divide="ignore", over="ignore"):
        return nu * np.mean(np.square(rewards.gap)) + (1 / reliability - 1)
