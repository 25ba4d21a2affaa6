"""Rewards as rates of winning among the candidates of a prompt, after CaPO (arXiv 2502.02588), as understood here."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean_win_rates(rewards: Sequence[Sequence[float]], temperature: float) -> list[float]:
    """How often each of N candidates would win against another one of them, mean over L rewards.

        R_ca(i) = 1/L Σ_l 1/(N - 1) Σ_{j ≠ i} σ((R_l(i) - R_l(j)) / T)

    In [0, 1], and N/2 in sum. Sums are rounded once, so that candidates of equal rewards have equal rates.

    Args:
        rewards: [N, L], N two or more; T is one for all L.
    """
    shares = (len(rewards) - 1) * len(rewards[0])
    return [
        math.fsum(
            _sigmoid((mine - theirs) / temperature)
            for j, others in enumerate(rewards)
            if j != i
            for mine, theirs in zip(own, others, strict=True)
        )
        / shares
        for i, own in enumerate(rewards)
    ]


def _sigmoid(x: float) -> float:
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))
