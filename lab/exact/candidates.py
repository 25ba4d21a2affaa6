"""Uses of rewards among which the library's default is chosen, all with rewards of an ensemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance import PairRewards, pair_weights
from iwpo_fast.importance.labels import gap_variance, label_shift, posterior_labels
from iwpo_fast.importance.posterior import candidate_importance
from iwpo_fast.importance.preferred import posterior_rewards, preferred_pairs
from iwpo_fast.importance.rivals import log_madpo
from iwpo_fast.rewards import PairTable
from lab.exact.arms import ARMS, UNTIL_NOW, Arm, Build, arm_data, unweighted, weighted
from lab.exact.policy import ArmData
from lab.exact.rewards import PairScores

Floats = NDArray[np.float64]

# Spelt out, so that candidates stay what they are when the library's defaults change.
EVEN = WeightConfig(method="none", soft_labels=0.0)
BY_NOISE = WeightConfig(method="irpss", tau="ess", ess_target="noise", gamma=0.0, truncate=5.0, soft_labels=0.0)

HEADS = {"linear": "ensemble", "auto": "auto"}
WEIGHTS = {"": EVEN, ", weights": BY_NOISE}
Variance = Callable[[PairRewards], Floats]  # of the error of reward gaps, for each cluster
LARGEST_FACTOR, SHARPNESS, TURN = 2.0, 1.0, float(np.log(0.999 / 0.001))
"""MADPO's c_max, λ and τ, as in its authors' code (arXiv 2510.05342)."""


def fixed_variance(rewards: PairRewards, s2: float) -> Floats:
    """The same s² wherever the rewards know something, with the passage to the label alone of `gap_variance`."""
    return s2 + gap_variance(rewards, 0.0)


VARIANCES: Mapping[str, Variance] = {
    **{f"ν {nu:g}": partial(gap_variance, nu=nu) for nu in (0.5, 1.0, 2.0)},
    **{f"s² {s2:g}": partial(fixed_variance, s2=s2) for s2 in (0.5, 1.0)},
}


def name_of(loss: str, variance: str, weights: str, heads: str) -> str:
    """Of a candidate in tables."""
    return f"{loss}, {variance}{weights}; {heads}"


def posterior_logistic(variance: Variance, settings: WeightConfig) -> Build:
    """-log σ with the posterior label."""

    def build(scores: PairScores, seed: int) -> ArmData:
        rewards = scores.rewards
        weight = pair_weights(rewards, settings, seed=seed).weight
        return arm_data(weight, posterior_labels(rewards, variance(rewards)))

    return build


def posterior_squared(variance: Variance, settings: WeightConfig) -> Build:
    """Squared distance to the posterior mean of the gap."""

    def build(scores: PairScores, seed: int) -> ArmData:
        rewards = scores.rewards
        mean = rewards.gap + label_shift(rewards, variance(rewards))
        weight = pair_weights(rewards, settings, seed=seed).weight
        return arm_data(weight, np.zeros(len(mean)), targets=torch.as_tensor(mean, dtype=torch.float32)[:, None])

    return build


def with_preferred_samples(variance: Variance) -> Build:
    """The labelled pairs with their posterior labels, and one pair drawn among all candidates of each prompt."""

    def build(scores: PairScores, seed: int) -> ArmData:
        rewards, completions = scores.rewards, scores.completions
        assert scores.candidates is not None and completions is not None
        count, candidates = completions.shape
        s2 = variance(rewards)
        prompts = np.arange(count)
        table = PairTable(prompts, candidates * prompts, candidates * prompts + 1, np.repeat(prompts, candidates))
        posterior = posterior_rewards(scores.candidates.ravel(), table, label_shift(rewards, s2))
        q = candidate_importance(posterior, table.prompt_of)
        drawn = preferred_pairs(posterior, table.prompt_of, q, np.ones_like(q), 1, seed=seed)
        of_drawn = table.prompt_of[drawn.chosen]
        assert rewards.reliability is not None
        reliability = rewards.reliability[rewards.cluster]
        both = np.stack([drawn.chosen, drawn.rejected], 1)
        return arm_data(
            np.concatenate([np.ones(count), reliability[of_drawn]]),
            np.concatenate([posterior_labels(rewards, s2), drawn.label_smoothing]),
            prompts=torch.from_numpy(np.concatenate([prompts, of_drawn])),
            completions=torch.from_numpy(np.concatenate([completions[:, :2], completions.ravel()[both]])),
        )

    return build


def seen_twice(build: Build) -> Build:
    """As many pairs as with a preferred sample for each prompt, which are the labelled ones again."""

    def twice(scores: PairScores, seed: int) -> ArmData:
        assert scores.completions is not None
        data, pairs = build(scores, seed), torch.from_numpy(scores.completions[:, :2])
        prompts = torch.arange(len(pairs))
        return arm_data(
            np.tile(data.weights.double().numpy(), 2),
            np.tile(data.smoothing.double().numpy(), 2),
            prompts=torch.cat([prompts, prompts]),
            completions=torch.cat([pairs, pairs]),
        )

    return twice


def d_dpo(scores: PairScores, seed: int) -> ArmData:
    """Squared distance to the gap of the ensemble's mean rewards, whatever the label."""
    gap = scores.rewards.gap
    return arm_data(np.ones(len(gap)), np.zeros(len(gap)), targets=torch.as_tensor(gap, dtype=torch.float32)[:, None])


def madpo(scores: PairScores, seed: int) -> ArmData:
    """DPO with the weight σ(c m) / σ(m) of the observed label, m the reward gap (Rho 2026, arXiv 2510.05342)."""
    gap = scores.rewards.gap
    log_weight = log_madpo(gap, factor=LARGEST_FACTOR, turn=TURN, sharpness=SHARPNESS)
    return arm_data(np.exp(log_weight), np.zeros(len(gap)))


LOSSES = {"logistic": posterior_logistic, "squared": posterior_squared}


def _candidates() -> dict[str, Arm]:
    builds = {
        name_of(loss, variance, weights, heads): (HEADS[heads], LOSSES[loss](VARIANCES[variance], WEIGHTS[weights]))
        for loss, variance, weights, heads in product(LOSSES, VARIANCES, WEIGHTS, HEADS)
    }
    for heads, model in HEADS.items():
        builds |= {
            f"logistic, {variance}, {samples} sampled; {heads}": (
                f"{model}+{samples}",
                with_preferred_samples(VARIANCES[variance]),
            )
            for variance, samples in product(("ν 1", "s² 1"), (4, 8))
        }
        builds |= {
            f"default until now; {heads}": (model, weighted(UNTIL_NOW)),
            f"d-DPO; {heads}": (model, d_dpo),
            f"MADPO; {heads}": (model, madpo),
        }
    return {name: Arm(name, model, build, "candidates") for name, (model, build) in builds.items()}


CANDIDATES: Mapping[str, Arm] = _candidates()
SEEN_TWICE: Mapping[str, Arm] = {
    "DPO, seen twice": Arm("DPO, seen twice", "auto+4", seen_twice(unweighted()), "controls"),
    "logistic, ν 1, seen twice; auto": Arm(
        "logistic, ν 1, seen twice; auto", "auto+4", seen_twice(posterior_logistic(VARIANCES["ν 1"], EVEN)), "controls"
    ),
}
"""What the larger steps of arms with sampled candidates would gain without these."""
CATALOGUE: Mapping[str, Arm] = dict(ARMS) | dict(CANDIDATES) | dict(SEEN_TWICE)
