"""Weights of pairs by other methods, in the place of IRPSS: margins (MADPO) and held-out difficulty (SelectiveDPO).

With m = r̃_w - r̃_l, the gap of the rewards in log-odds,

    madpo       ω ∝ σ(c m) / σ(m) where m > -τ, else 1                    log_madpo
                c = 1/C + (C - 1/C) / (1 + C exp(λ (|m| - τ)))
    selective   ω ∝ 1 for the share of each cluster of least loss softplus(-m), else 0     log_selected

The weight of Uni-DPO's `quality`, ω ∝ σ(η m), is the second factor of IRPSS by itself: `method: irpss` with `tau: inf`
and `gamma: η`. As everywhere in this library, weights have mean 1 in each cluster, which none of the sources ask for.
"""

from __future__ import annotations

import numpy as np

from iwpo_fast.config import ExperimentalConfig
from iwpo_fast.importance.experimental import pair_risk
from iwpo_fast.importance.types import PairRewards


def log_rival(rewards: PairRewards, settings: ExperimentalConfig) -> np.ndarray:
    """log ω of each pair [P], up to a constant per cluster, by `settings.method`."""
    if settings.method == "madpo":
        factor, turn, sharpness = settings.madpo_factor, settings.madpo_turn, settings.madpo_sharpness
        return log_madpo(rewards.gap, factor=factor, turn=turn, sharpness=sharpness)
    return log_selected(rewards, settings.selected_share)


def log_madpo(gap: np.ndarray, *, factor: float, turn: float, sharpness: float) -> np.ndarray:
    """log σ(c m) - log σ(m), and 0 where m ≤ -τ: MADPO (Rho 2026, arXiv 2510.05342), after the author's code.

    In expectation over labels drawn with σ(m), the weights turn the target probability σ(m) into σ(c m): sharper where
    |m| < τ, by a factor c of at most C, and blunter above, by 1/C at least. There the reward model is fitted on the
    pairs that it weighs; here it is cross-fitted.

    Args:
        gap: m, float64 [P], in log-odds, signed by the label.
        factor: C ≥ 1; at 1 every weight is 1.
        turn: τ > 0, in log-odds.
        sharpness: λ > 0, how sharply c falls around τ.
    """
    from scipy.special import log_expit

    with np.errstate(over="ignore"):
        shape = factor * np.exp(sharpness * (np.abs(gap) - turn))
    least = 1 / factor
    c = least + (factor - least) / (1 + shape)
    return np.where(gap > -turn, log_expit(c * gap) - log_expit(gap), 0.0)


def log_selected(rewards: PairRewards, share: float) -> np.ndarray:
    """0 for the pairs of each cluster whose labels the rewards explain best, -inf for the others.

    After SelectiveDPO (Gao et al. 2025, arXiv 2502.09650), whose public code was at hand. There six DPO models, trained
    on halves of the data, score the other halves, and their mean loss ranks all pairs; the easier ones are trained on
    from easy to hard. Here the loss is that of the cross-fitted rewards, the ranking is inside each cluster, so that
    tasks keep their proportions, and the order of training stays random.

    Args:
        share: of the pairs of a cluster, in (0, 1], rounded up; pairs that tie with the last one are kept too.
    """
    risk = pair_risk(rewards)
    kept = np.zeros(len(rewards), dtype=bool)
    for k in np.unique(rewards.cluster):
        inside = np.flatnonzero(rewards.cluster == k)
        last = int(np.ceil(share * len(inside))) - 1
        kept[inside] = risk[inside] <= np.partition(risk[inside], last)[last]
    return np.where(kept, 0.0, -np.inf)
