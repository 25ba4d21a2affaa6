"""From calibrated rewards to weights and soft labels."""

from __future__ import annotations

import numpy as np

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance.baseline import log_levels
from iwpo_fast.importance.density_ratio import log_alpha_ratio, log_kl_ratio, pair_risk
from iwpo_fast.importance.effective_size import ess_fraction
from iwpo_fast.importance.irpss import log_importance, log_preferred
from iwpo_fast.importance.noise import EVEN, effective_size_for
from iwpo_fast.importance.normalise import normalise
from iwpo_fast.importance.resampling import systematic_counts
from iwpo_fast.importance.settings import check_weight_settings
from iwpo_fast.importance.soft_labels import soft_labels, strength_of
from iwpo_fast.importance.temperature import smallest_temperature
from iwpo_fast.importance.types import PairRewards, PairWeights


def pair_weights(rewards: PairRewards, settings: WeightConfig, *, seed: int) -> PairWeights:
    """Weigh pairs by `settings.method` and soften their labels.

    With `irpss` (this project's formula, after the public abstract of IWPO),

        log a = [(r_w - b) + λ (r_l - b)]/τ + log σ(γ Δ),    Δ = r_w - r_l,

    then normalised per cluster (`normalise`), and ε = soft_labels · trust · σ(-Δ). Other methods replace log a alone.
    Weights are not judged here: `PairWeights.check` refuses a low effective sample size, after a report, if any.

    Args:
        seed: seed of resampling; weighting is deterministic.

    Raises:
        ValueError: a setting cannot work, `tau: ess` finds no temperature, a baseline lacks its candidates, or weights
            are not finite.
    """
    check_weight_settings(settings)
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        tau, weight = _weigh(rewards, settings)
    if not np.all(np.isfinite(weight)):
        name = "ratio_scale" if tau is None else "tau"
        raise ValueError(
            f"With weights.{name} {getattr(settings, name)} and rewards up to {np.abs(rewards.chosen).max():.3g} some "
            f"weights are not finite: raise weights.{name}."
        )
    ess, cluster_ess = ess_fraction(weight, rewards.cluster, rewards.clusters)
    counts = None
    if settings.realisation == "resampling":
        counts = systematic_counts(weight, rewards.cluster, seed=seed)
        weight = counts.astype(np.float64)
    return PairWeights(
        weight=weight,
        label_smoothing=soft_labels(rewards, strength_of(settings)),
        counts=counts,
        tau=tau,
        ess=ess,
        cluster_ess=cluster_ess,
        cluster_pairs=np.bincount(rewards.cluster, minlength=rewards.clusters),
        agreed=settings.method == "irpss" and settings.ess_target == "noise" and tau is None,
    )


def _weigh(rewards: PairRewards, settings: WeightConfig) -> tuple[float | None, np.ndarray]:
    """Temperature, if the method has one, and weights of mean 1 per cluster [P]."""
    cluster, clusters = rewards.cluster, rewards.clusters

    def finish(log_weight: np.ndarray) -> np.ndarray:
        return normalise(log_weight, cluster, clusters, truncate=settings.truncate, defensive=settings.defensive)

    if settings.method == "none":
        return None, np.ones(len(rewards))
    if settings.method == "density_ratio":
        return None, finish(log_kl_ratio(pair_risk(rewards), settings.ratio_scale))
    if settings.method == "rejection":
        scale, alpha = settings.ratio_scale, settings.ratio_alpha
        return None, finish(log_alpha_ratio(pair_risk(rewards), cluster, clusters, scale=scale, alpha=alpha))

    levels, preferred = log_levels(rewards, settings.baseline), log_preferred(rewards, settings.gamma)

    def at(tau: float) -> np.ndarray:
        importance = log_importance(rewards, levels(tau), tau=tau, rejected_exponent=settings.rejected_exponent)
        return finish(importance + preferred)

    if settings.tau != "ess":
        return settings.tau, at(settings.tau)
    target = effective_size_for(rewards.noise) if settings.ess_target == "noise" else settings.ess_target
    if target >= EVEN:
        return None, np.ones(len(rewards))
    spread = (1 + abs(settings.rejected_exponent)) * _range(rewards)
    tau = smallest_temperature(at, cluster, clusters, target=target, spread=spread)
    return tau, at(tau)


def _range(rewards: PairRewards) -> float:
    """Largest minus smallest reward of a completion."""
    candidates = [] if rewards.candidates is None else [rewards.candidates.reward]
    return float(np.ptp(np.concatenate([rewards.chosen, rewards.rejected, *candidates])))
