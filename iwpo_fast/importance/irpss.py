"""IRPSS: the two factors of a pair's weight, in log space.

Target policy π* ∝ π_ref exp(r/τ), proposal the pairs at hand, taken as drawn from π_ref. The formulas are this
project's own, after the public abstract of IWPO.
"""

from __future__ import annotations

import numpy as np

from iwpo_fast.importance.types import PairRewards


def log_importance(rewards: PairRewards, level: np.ndarray, *, tau: float, rejected_exponent: float) -> np.ndarray:
    """[(r_w - b) + λ (r_l - b)] / τ of each pair [P]: how much likelier its completions are under π*.

    Args:
        level: b/τ of each pair [P] (`log_levels`).
        rejected_exponent: λ; 0 counts the preferred sample alone. Weighed by this factor with b = 0, the loss -log σ(h)
            of two completions is least at h = Δ* + (1-λ) (r_1 - r_2)/τ, where labels alone give Δ*.
    """
    return rewards.chosen / tau - level + rejected_exponent * (rewards.rejected / tau - level)


def log_preferred(rewards: PairRewards, gamma: float) -> np.ndarray:
    """log σ(γ Δ) of each pair [P]: probability that the chosen completion is the preferred one, sharpened by γ."""
    return -np.logaddexp(0.0, -gamma * rewards.gap)
