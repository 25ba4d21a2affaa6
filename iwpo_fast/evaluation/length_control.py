"""Win rates as they would be if both answers were equally long."""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from iwpo_fast.evaluation.bootstrap import Float64s, Statistic

PENALTY = 100.0
"""scikit-learn's C: a ridge so weak that it only keeps the fit finite where all answers win."""


def length_controlled(won: Float64s, longer: Float64s) -> Statistic:
    """Length-controlled win rate, for any weights of the comparisons.

    P(win) = σ(a + b tanh(Δ / s)), Δ the difference of the lengths and s its standard deviation, is fitted to the wins;
    σ(a) is the rate at Δ = 0. This is the model of Dubois et al. (2024, arXiv 2404.04475) without their difficulty of
    instructions, which is learnt from a leaderboard, and without their L1 penalty.

    Args:
        won: float64 [n], 1 for a win, 1/2 for a tie.
        longer: float64 [n], length of the answer minus that of the other.
    """
    spread = float(longer.std()) if len(longer) else 0.0
    columns = np.stack([np.ones(len(won)), np.tanh(longer / spread) if spread else np.zeros(len(won))], axis=1)
    twice, labels = np.concatenate([columns, columns]), np.repeat([1, 0], len(won))

    def rate(weights: Float64s) -> float:
        share = np.concatenate([weights * won, weights * (1 - won)])
        used = share > 0
        if not used.any():
            return np.nan
        # One half of a win and of a defeat at equal lengths, so that both are there whoever won.
        rows = np.concatenate([twice[used], [[1.0, 0.0], [1.0, 0.0]]])
        model = LogisticRegression(C=PENALTY, fit_intercept=False, solver="newton-cholesky", tol=1e-6)
        model.fit(rows, [*labels[used], 1, 0], sample_weight=[*share[used], 0.5, 0.5])
        return float(expit(model.coef_[0, 0]))

    return rate
