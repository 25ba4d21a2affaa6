"""The label of a pair as far as the label and the rewards agree, and the importance of each candidate of a prompt.

Rewards that were fitted on other pairs say that the gap Δ between two responses, in log-odds, is N(Δ̂, s²); the label,
which was drawn with probability σ(Δ), multiplies that by σ(Δ). Under the product

    1 - ε = E[σ(Δ)²] / E[σ(Δ)]        Δ ~ N(Δ̂, s²)                     flip_probability
    Δ̃ - Δ̂ = s² E[σ(Δ) σ(-Δ)] / E[σ(Δ)] = s² ε                         posterior_shift

where the loss takes the pair as it is with probability 1 - ε and with its responses exchanged with probability ε.
s² = 0 believes the rewards alone, as the Bernoulli form of reward distillation does; s² = ∞ believes the label alone,
as DPO does. Among K candidates of a prompt the importance of candidate j for the target π_ref exp(r/τ) is

    q_j = softmax_j(r̃_j / τ + κ (log π_ref(y_j) - log μ(y_j)))         candidate_importance

in which the target's normaliser cancels. Only the abstract of IWPO is public: the formulas are this project's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]

REACH = 9.0
"""Standard deviations on both sides of the product's peak over which expectations are taken."""

FEWEST_STEPS, STEPS_PER_SCALE = 32, 13
"""Steps on each side: so many for each unit of s keep the trapezoidal rule within 1e-9, where σ varies over about 1."""

WIDE = 50.0
"""From this s on σ is a step beside the normal density."""

CHUNK = 1 << 20
"""Values of Δ that are looked at together."""


def flip_probability(gap: Float64s, variance: float) -> Float64s:
    """ε [P]: probability that the label of a pair is the wrong way round, given the label and rewards.

    Args:
        gap: Δ̂ [P], reward of the chosen minus reward of the rejected response, in log-odds; finite.
        variance: s², of the error of `gap`; 0 where rewards are exact, inf where they say nothing.

    Raises:
        ValueError: the variance is negative or not a number.
    """
    gap = np.asarray(gap, dtype=np.float64)
    if not variance >= 0:
        raise ValueError(f"The variance of reward gaps is {variance}: it must be 0 or more.")
    if variance == np.inf:
        return np.zeros_like(gap)
    scale = float(np.sqrt(variance))
    if scale > WIDE:
        return _flip_of_wide(gap, scale)
    if scale == 0:
        return np.exp(_log_sigmoid(-gap))
    steps = max(FEWEST_STEPS, int(np.ceil(STEPS_PER_SCALE * scale)))
    offsets = np.linspace(-REACH, REACH, 2 * steps + 1)
    flip = np.empty_like(gap)
    size = max(1, CHUNK // len(offsets))
    for first in range(0, len(gap), size):
        part = gap[first : first + size, None]
        z = np.clip(-part / scale, 0, scale) + offsets  # around the peak that σ moves up
        delta = part + scale * z
        log_agree = _log_sigmoid(delta) - z * z / 2
        flip[first : first + size] = np.exp(_log_sum(log_agree + _log_sigmoid(-delta)) - _log_sum(log_agree))
    return np.minimum(flip, 1.0)


def posterior_shift(flip: Float64s, variance: float | Float64s) -> Float64s:
    """Δ̃ - Δ̂ [P], what the label adds to the mean of the gap: s² ε, by Stein's identity.

    Args:
        flip: ε [P], of `flip_probability` for the same variance.
        variance: s², one for all pairs or [P].
    """
    if np.any(np.isinf(variance)):
        raise ValueError("The shift of a gap of unknown size is not finite: give a finite variance.")
    return variance * flip


def candidate_importance(
    reward: Float64s, prompt: NDArray[np.int64], *, tau: float = 1.0, log_ratio: Float64s | None = None
) -> Float64s:
    """q [C]: probability that a candidate is the preferred sample of its prompt; sums to 1 over each prompt.

    Args:
        reward: [C], calibrated rewards in log-odds.
        prompt: int64 [C], prompt of each candidate, in any order.
        tau: temperature of the target.
        log_ratio: [C], log of what else its importance is in proportion to: how often it was drawn, and π_ref / μ where
            it was drawn from a known μ that is not π_ref.

    Raises:
        ValueError: the temperature is not positive, or a prompt has no candidate of finite importance.
    """
    if not tau > 0:
        raise ValueError(f"tau is {tau}: it must be more than 0.")
    _, prompt = np.unique(prompt, return_inverse=True)
    log_q = np.asarray(reward, dtype=np.float64) / tau
    if log_ratio is not None:
        log_q = log_q + log_ratio
    top = np.full(prompt.max(initial=-1) + 1, -np.inf)
    np.maximum.at(top, prompt, log_q)
    if not np.all(np.isfinite(top)):
        raise ValueError("A prompt has no candidate with a finite reward: leave the prompt out.")
    q = np.exp(log_q - top[prompt])
    return q / np.bincount(prompt, q)[prompt]


def _flip_of_wide(gap: Float64s, scale: float) -> Float64s:
    """φ(Δ̂/s) / (s Φ(Δ̂/s)), to a relative 1e-3: σ(1 - σ) has mass 1 around 0, and σ is a step."""
    from scipy.stats import norm

    z = gap / scale
    return np.minimum(np.exp(norm.logpdf(z) - norm.logcdf(z)) / scale, 1.0)


def _log_sigmoid(x: Float64s) -> Float64s:
    return -np.logaddexp(0.0, -x)


def _log_sum(logs: Float64s) -> Float64s:
    top = logs.max(1, keepdims=True)
    return (np.log(np.exp(logs - top).sum(1, keepdims=True)) + top)[:, 0]
