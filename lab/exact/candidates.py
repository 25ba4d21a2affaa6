"""Weights and soft labels among which the library's defaults were chosen, all with rewards of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance.weights import log_importance, log_preferred, normalise, soft_labels
from lab.exact.arms import ARMS, Arm, Build, arm_data, weighted
from lab.exact.policy import ArmData
from lab.exact.rewards import PairScores

INFINITE = float("inf")
PURE = WeightConfig(method="irpss", tau=2.0, gamma=2.0, truncate=5.0, defensive=0.0, soft_labels=0.0)
NO_WEIGHTS, PURE_WEIGHTS = "no weights", "τ 2, γ 2"
TRUST_SCALED = ", by trust"

WEIGHTS: Mapping[str, WeightConfig] = {
    NO_WEIGHTS: WeightConfig(method="none", soft_labels=0.0),
    PURE_WEIGHTS: PURE,
    "τ 2, γ 0": replace(PURE, gamma=0.0),
    "τ 4, γ 0": replace(PURE, tau=4.0, gamma=0.0),
    "τ 4, γ 0.5": replace(PURE, tau=4.0, gamma=0.5),
    "τ 4, γ 1": replace(PURE, tau=4.0, gamma=1.0),
    "τ 8, γ 0": replace(PURE, tau=8.0, gamma=0.0),
    "τ 8, γ 0.25": replace(PURE, tau=8.0, gamma=0.25),
    "τ 8, γ 0.5": replace(PURE, tau=8.0, gamma=0.5),
    "τ ∞, γ 0.5": replace(PURE, tau=INFINITE, gamma=0.5),
    "τ ∞, γ 1": replace(PURE, tau=INFINITE, gamma=1.0),
    "ESS 0.9, γ 0": replace(PURE, tau="ess", ess_target=0.9, gamma=0.0),
    "ESS 0.97, γ 0": replace(PURE, tau="ess", ess_target=0.97, gamma=0.0),
    "τ 2, γ 2, cut at 2": replace(PURE, truncate=2.0),
    "τ 2, γ 2, half uniform": replace(PURE, defensive=0.5),
    "τ 2, γ 2, cut at 2, half uniform": replace(PURE, truncate=2.0, defensive=0.5),
}
TRUST_SCALED_WEIGHTS = (PURE_WEIGHTS, "τ 4, γ 1")
WEIGHT_NAMES = (*WEIGHTS, *(name + TRUST_SCALED for name in TRUST_SCALED_WEIGHTS))
STRENGTHS = (0.0, 0.25, 0.75)


# Second round: what is fixed, and weights that fade as rewards cease to be noisy.
FIXED = (("ESS 0.9, γ 0", 0.75), ("ESS 0.9, γ 0", 0.0), ("ESS 0.97, γ 0", 0.25), (NO_WEIGHTS, 0.75), (NO_WEIGHTS, 0.25))
THRESHOLDS, SLOPES = (0.08, 0.1, 0.12), (1.0, 2.0, 3.0)
LOWEST_ESS = 0.5

# Third round: the weights chosen in the second, which are the library's, with soft labels.
CHOSEN_WEIGHTS = "ESS 1 - 3 (ρ - 0.08), γ 0"
SOFT_STRENGTHS = (0.25, 0.375, 0.5, 0.75)
LIBRARY_STRENGTH = 0.5


def name_of(weights: str, strength: float) -> str:
    """Of a candidate in tables."""
    return f"{weights}; ε {strength:g}"


LIBRARY = name_of(CHOSEN_WEIGHTS, LIBRARY_STRENGTH)


def by_trust(settings: WeightConfig) -> Build:
    """Log-weights times the trust of their cluster, which scales the soft labels already; no baseline, λ = 0."""
    assert settings.tau != "ess"
    tau = settings.tau

    def build(scores: PairScores, seed: int) -> ArmData:
        given = scores.rewards
        importance = log_importance(given, np.zeros(len(given)), tau=tau, rejected_exponent=0.0)
        log_weight = given.trust[given.cluster] * (importance + log_preferred(given, settings.gamma))
        weight = normalise(
            log_weight, given.cluster, given.clusters, truncate=settings.truncate, defensive=settings.defensive
        )
        return arm_data(weight, soft_labels(given, settings.soft_labels))

    return build


def by_noise(threshold: float, slope: float, strength: float = 0.0) -> Build:
    """ESS 1 - slope (noise share - threshold), γ 0; where the noise is below the threshold, plain DPO."""

    def build(scores: PairScores, seed: int) -> ArmData:
        assert scores.rewards.noise is not None
        target = 1 - slope * (scores.rewards.noise - threshold)
        if target >= 1:
            return arm_data(np.ones(len(scores.gaps)), np.zeros(len(scores.gaps)))
        settings = replace(PURE, tau="ess", ess_target=max(target, LOWEST_ESS), gamma=0.0, soft_labels=strength)
        return weighted(settings)(scores, seed)

    return build


FADED: dict[str, Build] = {
    f"ESS 1 - {slope:g} (ρ - {threshold:g}), γ 0": by_noise(threshold, slope)
    for threshold in THRESHOLDS
    for slope in SLOPES
} | {"ESS 1 - 2 (ρ - 0.1), γ 0; ε 0.75 where ρ > 0.1": by_noise(0.1, 2.0, 0.75)}
FADING = replace(PURE, tau="ess", ess_target="noise", gamma=0.0)
SOFTENED: dict[str, Build] = {
    name_of(CHOSEN_WEIGHTS, strength): weighted(replace(FADING, soft_labels=strength)) for strength in SOFT_STRENGTHS
}
FIRST_ROUND = [(name, weighted, settings) for name, settings in WEIGHTS.items()]
FIRST_ROUND += [(name + TRUST_SCALED, by_trust, WEIGHTS[name]) for name in TRUST_SCALED_WEIGHTS]
BUILDS = {
    name_of(name, strength): build(replace(settings, soft_labels=strength))
    for name, build, settings in FIRST_ROUND
    for strength in STRENGTHS
}
CATALOGUE: Mapping[str, Arm] = {"dpo": ARMS["dpo"]} | {
    name: Arm(name, "ensemble", build, "candidates") for name, build in (BUILDS | FADED | SOFTENED).items()
}
