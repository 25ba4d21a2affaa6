"""From calibrated rewards to weights and soft labels."""

from __future__ import annotations

import numpy as np

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance.baseline import log_levels
from iwpo_fast.importance.density_ratio import log_alpha_ratio, log_kl_ratio, pair_risk
from iwpo_fast.importance.effective_size import ess_fraction
from iwpo_fast.importance.irpss import log_importance, log_preferred
from iwpo_fast.importance.noise import effective_size_for
from iwpo_fast.importance.normalise import normalise
from iwpo_fast.importance.resampling import systematic_counts
from iwpo_fast.importance.settings import check_weight_settings
from iwpo_fast.importance.soft_labels import soft_labels
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
        ValueError: a setting cannot work, `tau: ess` finds no temperature, or a baseline lacks its candidates.
    """
    check_weight_settings(settings)
    tau, weight = _weigh(rewards, settings)
    ess, cluster_ess = ess_fraction(weight, rewards.cluster, rewards.clusters)
    counts = None
    if settings.realisation == "resampling":
        counts = systematic_counts(weight, rewards.cluster, seed=seed)
        weight = counts.astype(np.float64)
    return PairWeights(
        weight=weight,
        label_smoothing=soft_labels(rewards, settings.soft_labels),
        counts=counts,
        tau=tau,
        ess=ess,
        cluster_ess=cluster_ess,
        cluster_pairs=np.bincount(rewards.cluster, minlength=rewards.clusters),
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

    if settings.tau == "ess":
        target = effective_size_for(rewards.noise) if settings.ess_target == "noise" else settings.ess_target
        if settings.ess_target == "noise" and target == 1:
            return None, np.ones(len(rewards))
        tau = smallest_temperature(at, cluster, clusters, target=target)
    else:
        tau = settings.tau
    return tau, at(tau)
