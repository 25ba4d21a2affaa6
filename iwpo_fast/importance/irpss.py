"""IRPSS: the two factors of a pair's weight, in log space.

Target policy π* ∝ π_ref exp(r/τ), proposal the pairs at hand, taken as drawn from π_ref. The formulas are this
project's own, after the public abstract of IWPO.
"""

from __future__ import annotations

import numpy as np

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance.baseline import log_level
from iwpo_fast.importance.types import PairRewards


def log_importance(rewards: PairRewards, settings: WeightConfig, tau: float) -> np.ndarray:
    """[(r_w - b) + λ (r_l - b)] / τ of each pair [P]: how much likelier its completions are under π*.

    λ is `settings.rejected_exponent`: 0 counts the preferred sample alone. Weighed by this factor with b = 0, the loss
    -log σ(h) of two completions is least at h = Δ* + (1-λ) (r_1 - r_2)/τ, where labels alone give Δ*.
    """
    level = log_level(rewards, settings.baseline, tau)
    return rewards.chosen / tau - level + settings.rejected_exponent * (rewards.rejected / tau - level)


def log_preferred(rewards: PairRewards, gamma: float) -> np.ndarray:
    """log σ(γ Δ) of each pair [P]: probability that the chosen completion is the preferred one, sharpened by γ."""
    return -np.logaddexp(0.0, -gamma * rewards.gap)
