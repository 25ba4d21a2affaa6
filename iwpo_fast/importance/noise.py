"""How much of an ensemble's rewards is sampling noise, and how unequal that lets weights be.

Rewards teach a policy what its pairs do not where pairs are few or labels noisy: there members of an ensemble, which
learnt from bootstraps of the pairs, disagree. Where they agree pairs are plenty, and weights cost more than they bring.
This is the project's own; the constants were chosen in the laboratory of `lab/exact`.
"""

from __future__ import annotations

import numpy as np

PLENTY = 0.08
SLOPE = 3.0
LOWEST, UNKNOWN = 0.5, 0.9
EVEN = 0.99


def noise_share(gaps: np.ndarray) -> float | None:
    """Mean variance of a reward gap among members over the mean square of their mean gap.

    Args:
        gaps: float64 [P, M], reward gap of each pair by each member of an ensemble.

    Returns:
        None for fewer than two members; 0 where the mean gap of every pair is 0.
    """
    if gaps.shape[1] < 2:
        return None
    square = float(np.square(gaps.mean(axis=1)).mean())
    return float(gaps.var(axis=1, ddof=1).mean()) / square if square else 0.0


def effective_size_for(noise: float | None) -> float:
    """Effective sample size to keep: 1 - SLOPE (noise - PLENTY), at least LOWEST; UNKNOWN for unknown noise.

    From EVEN on it is 1: so little is not worth a temperature.
    """
    if noise is None:
        return UNKNOWN
    size = max(LOWEST, 1 - SLOPE * (noise - PLENTY))
    return size if size < EVEN else 1.0
