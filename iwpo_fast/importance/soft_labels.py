"""Trust-scaled soft labels."""

from __future__ import annotations

import numpy as np

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance.types import PairRewards

AUTO = 0.5
"""Chosen in the laboratories of `lab`, as a compromise: more gains more on a language model, and costs
more where rewards are blind to a part of the truth."""


def strength_of(settings: WeightConfig) -> float:
    """The strength of soft labels that the settings ask for."""
    if settings.soft_labels == "auto":
        return AUTO if settings.method == "irpss" else 0.0
    return settings.soft_labels


def soft_labels(rewards: PairRewards, strength: float) -> np.ndarray:
    """ε = strength · t_z · σ(-Δ) of each pair: probability of a flipped label, as far as the rewards can be trusted.

    This project's own, beyond IWPO. Where the trust of a cluster is 0 its labels stay as they are.

    Args:
        strength: label smoothing of a pair that fully trusted rewards find mislabelled, in [0, 1).

    Returns:
        float64 [P] in [0, strength].
    """
    return strength * rewards.trust[rewards.cluster] * np.exp(-np.logaddexp(0.0, rewards.gap))
