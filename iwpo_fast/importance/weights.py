"""From calibrated rewards to one weight and one soft label per pair, in the order of `docs/iwpo.md`.

The target policy is π* ∝ π_ref exp(r/τ), and the pairs are taken as drawn from π_ref. With Δ = r_w - r_l, IRPSS is

    log a = [(r_w - b) + λ (r_l - b)]/τ + log σ(γ Δ)                          log_importance, log_preferred
            - log E[2 σ(r_w - r')], if asked for                              `selection.log_selection`
    ω = a with mean 1 in each cluster, cut, with mean 1 again, mixed with 1   normalise
    ε: how far the label is doubted                                          `labels.label_smoothing`

Only the abstract of IWPO is public: the formulas are this project's own.
"""

from __future__ import annotations

import numpy as np

from iwpo_fast.config import EVEN, WeightConfig
from iwpo_fast.config_checks import check_weight_settings
from iwpo_fast.importance.effective_size import effective_size_for, ess_fraction, smallest_temperature
from iwpo_fast.importance.experimental import log_levels, log_ratio
from iwpo_fast.importance.labels import label_smoothing
from iwpo_fast.importance.resampling import systematic_counts
from iwpo_fast.importance.rivals import log_rival
from iwpo_fast.importance.selection import log_selection
from iwpo_fast.importance.types import PairRewards, PairWeights


def pair_weights(rewards: PairRewards, settings: WeightConfig, *, seed: int) -> PairWeights:
    """Weigh pairs by `settings.method` and soften their labels.

    Does not check the effective sample size: call `PairWeights.check`, perhaps after a report.

    Args:
        seed: seed of resampling; weighting is deterministic.

    Raises:
        ValueError: a setting cannot work, `tau: ess` finds no temperature, a baseline lacks its candidates, or weights
            are not finite.
    """
    check_weight_settings(settings)
    settings = settings.resolved()
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        tau, weight = _weigh(rewards, settings)
    if not np.all(np.isfinite(weight)):
        scale = settings.experimental.ratio_scale
        name, value = ("experimental.ratio_scale", scale) if tau is None else ("tau", settings.tau)
        raise ValueError(
            f"With weights.{name} {value} and rewards up to {np.abs(rewards.chosen).max():.3g} some weights are not "
            f"finite: raise weights.{name}."
        )
    ess, cluster_ess = ess_fraction(weight, rewards.cluster, rewards.clusters)
    counts = None
    if settings.realisation == "resampling":
        counts = systematic_counts(weight, rewards.cluster, seed=seed)
        weight = counts.astype(np.float64)
    return PairWeights(
        weight=weight,
        label_smoothing=label_smoothing(rewards, settings),
        counts=counts,
        tau=tau,
        ess=ess,
        cluster_ess=cluster_ess,
        cluster_pairs=np.bincount(rewards.cluster, minlength=rewards.clusters),
        agreed=settings.formula == "irpss" and settings.ess_target == "noise" and tau is None,
    )


def _weigh(rewards: PairRewards, settings: WeightConfig) -> tuple[float | None, np.ndarray]:
    """Temperature, if the method has one, and weights [P] of mean 1 in each cluster."""
    cluster, clusters, experimental = rewards.cluster, rewards.clusters, settings.experimental
    fixed_tau, gamma, target = settings.tau, settings.gamma, settings.ess_target
    assert fixed_tau != "auto" and gamma != "auto" and target != "auto", "a form sets whatever is auto"

    def finish(log_weight: np.ndarray) -> np.ndarray:
        return normalise(log_weight, cluster, clusters, truncate=settings.truncate, defensive=settings.defensive)

    if settings.formula == "none":
        return None, np.ones(len(rewards))
    if settings.formula in ("madpo", "selective"):
        return None, finish(log_rival(rewards, experimental))
    if settings.formula != "irpss":
        return None, finish(log_ratio(rewards, experimental))

    exponent = experimental.rejected_exponent
    level = log_levels(rewards, experimental.baseline)
    preferred = log_preferred(rewards, gamma) - log_selection(rewards, experimental.selection)

    def at(tau: float) -> np.ndarray:
        return finish(log_importance(rewards, level(tau), tau=tau, rejected_exponent=exponent) + preferred)

    if fixed_tau != "ess":
        return fixed_tau, at(fixed_tau)
    target = effective_size_for(rewards.noise) if target == "noise" else target
    if target >= EVEN:
        return None, np.ones(len(rewards))
    spread = (1 + abs(exponent)) * rewards.spread
    tau = smallest_temperature(at, cluster, clusters, target=target, spread=spread)
    return tau, at(tau)


def log_importance(rewards: PairRewards, level: np.ndarray, *, tau: float, rejected_exponent: float) -> np.ndarray:
    """[(r_w - b) + λ (r_l - b)]/τ of each pair [P]: how much likelier its completions are under π*.

    Args:
        level: b/τ of each pair [P] (`log_levels`).
        rejected_exponent: λ; 0 counts the preferred sample alone. Weighed by this factor with b = 0, the loss -log σ(h)
            of two completions is least at h = Δ* + (1-λ) (r_1 - r_2)/τ, where labels alone give Δ*.
    """
    return rewards.chosen / tau - level + rejected_exponent * (rewards.rejected / tau - level)


def log_preferred(rewards: PairRewards, gamma: float) -> np.ndarray:
    """log σ(γ Δ) of each pair [P]: probability that the chosen completion is the preferred one, sharpened by γ."""
    return -np.logaddexp(0.0, -gamma * rewards.gap)


def normalise(
    log_weight: np.ndarray, cluster: np.ndarray, clusters: int, *, truncate: float, defensive: float
) -> np.ndarray:
    """Self-normalise per cluster to mean 1, cut at `truncate`, renormalise once, mix with uniform weights.

    Normalising per cluster keeps the proportions of tasks. The second normalisation can lift a weight above `truncate`
    again. Cutting large weights: Ionides 2008; the defensive mixture (1 - η) ω + η: Hesterberg 1995.

    Args:
        log_weight: float64 [P]; -inf for weight 0, though not for a whole cluster.
        cluster: int64 [P] in 0..clusters-1.
        truncate: largest weight, as a multiple of the mean; inf cuts nothing.
        defensive: η in [0, 1].

    Returns:
        float64 [P], non-negative.
    """
    top = np.full(clusters, -np.inf)
    np.maximum.at(top, cluster, log_weight)
    weight = _mean_one(np.exp(log_weight - top[cluster]), cluster, clusters)
    weight = _mean_one(np.minimum(weight, truncate), cluster, clusters)
    return weight + defensive * (1 - weight)


def _mean_one(weight: np.ndarray, cluster: np.ndarray, clusters: int) -> np.ndarray:
    size = np.bincount(cluster, minlength=clusters)
    mean = np.bincount(cluster, weight, clusters) / np.maximum(size, 1)
    return weight / mean[cluster]
