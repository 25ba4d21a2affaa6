"""Weights by how well the rewards explain the label: density ratios of an idealised distribution.

After "Rejection via Learning Density Ratios" (Soen et al. 2024, arXiv 2405.18686) and its published code. There it
decides where a classifier abstains; here the example is a pair and its risk that of the reward model.
"""

from __future__ import annotations

import numpy as np

from iwpo_fast.importance.types import PairRewards

BISECTIONS = 60  # the interval shrinks to float64 resolution


def pair_risk(rewards: PairRewards) -> np.ndarray:
    """ℓ = softplus(-Δ) of each pair [P]: the reward model's loss on the label, in nats."""
    return np.logaddexp(0.0, -rewards.gap)


def log_kl_ratio(risk: np.ndarray, scale: float) -> np.ndarray:
    """log ρ = -ℓ/λ of each pair [P], up to the constant log Z: the ratio under the KL divergence."""
    return -risk / scale


def log_alpha_ratio(risk: np.ndarray, cluster: np.ndarray, clusters: int, *, scale: float, alpha: float) -> np.ndarray:
    """log of ρ = [(α-1)/2 · (b - ℓ/λ)]_+^{2/(α-1)}, the ratio under the α-divergence; -inf for a rejected pair.

    b, of each cluster, by bisection so that the mean of ρ is 1.

    Args:
        risk: float64 [P], ℓ.
        cluster: int64 [P] in 0..clusters-1.
        scale: λ > 0.
        alpha: α > 1; at 3 the weight falls linearly with the risk.
    """
    scaled = risk / scale
    power = 2 / (alpha - 1)
    size = np.maximum(np.bincount(cluster, minlength=clusters), 1)
    low = np.full(clusters, np.inf)
    np.minimum.at(low, cluster, scaled)
    high = np.full(clusters, -np.inf)
    np.maximum.at(high, cluster, scaled)
    low[np.isinf(low)] = high[np.isinf(high)] = 0.0  # clusters without pairs
    high += power
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        with np.errstate(over="ignore"):
            ratio = (np.maximum(middle[cluster] - scaled, 0.0) / power) ** power
        above = np.bincount(cluster, ratio, clusters) / size >= 1
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    with np.errstate(divide="ignore"):
        return power * np.log(np.maximum(high[cluster] - scaled, 0.0) / power)
