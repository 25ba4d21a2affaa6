"""The methods compared, as what each makes of the pairs of a world."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from iwpo_fast.config import ExperimentalConfig, WeightConfig
from iwpo_fast.importance import PairWeights, pair_weights
from lab.exact import rewards
from lab.exact.policy import ArmData
from lab.exact.rewards import Floats, PairScores
from lab.exact.worlds import World

# Of e-DPO and p-DPO. With 0.001 instead, their gold reward at KL = 1 is at most 1 % higher in worlds outside the table;
# with 0.1 p-DPO's is 9 % lower.
FORWARD_KL = 0.01
Build = Callable[[PairScores, int], ArmData]


@dataclass(frozen=True)
class Arm:
    """A method.

    Attributes:
        label: for tables and plots.
        model: whose rewards it uses, of `rewards.score`.
        build: from scores and a seed to training data.
        group: where it stands in tables.
    """

    label: str
    model: str
    build: Build
    group: str


def weighted(settings: WeightConfig, *, shuffled: bool = False) -> Build:
    """By the library's own weights and soft labels, perhaps dealt out anew inside each cluster."""

    def build(scores: PairScores, seed: int) -> ArmData:
        made = pair_weights(scores.rewards, settings, seed=seed)
        plain = (made.weight, made.label_smoothing)
        return arm_data(*(shuffle(made, scores.rewards.cluster, seed) if shuffled else plain))

    return build


def shuffle(made: PairWeights, cluster: NDArray[np.int64], seed: int) -> tuple[Floats, Floats]:
    """Weights and smoothing in another order, with the same histogram in each cluster."""
    random = np.random.default_rng(seed)
    weight, smoothing = made.weight.copy(), made.label_smoothing.copy()
    for k in np.unique(cluster):
        rows = np.flatnonzero(cluster == k)
        order = random.permutation(rows)
        weight[rows], smoothing[rows] = made.weight[order], made.label_smoothing[order]
    return weight, smoothing


def unweighted(*, distils: bool = False, **settings: Any) -> Build:
    """The labels as they are, or the reward gaps in their place; `settings` are of `arm_data`."""

    def build(scores: PairScores, seed: int) -> ArmData:
        count = len(scores.gaps)
        targets = torch.as_tensor(scores.gaps, dtype=torch.float32) if distils else None
        return arm_data(np.ones(count), np.zeros(count), targets=targets, **settings)

    return build


def _cheap_rival(scores: PairScores, seed: int) -> ArmData:
    """Soft labels 0.25 + 0.75 sigmoid(gap)."""
    return arm_data(np.ones(len(scores.gaps)), 0.75 * expit(-scores.rewards.gap))


def arm_data(weights: Floats, smoothing: Floats, **settings: Any) -> ArmData:
    as_tensor = torch.as_tensor
    return ArmData(as_tensor(weights, dtype=torch.float32), as_tensor(smoothing, dtype=torch.float32), **settings)


# Spelt out, so that arms stay what they are when the library's defaults change.
UNTIL_NOW = WeightConfig(method="irpss", tau="ess", ess_target="noise", gamma=0.0, truncate=5.0, soft_labels=0.5)
_HARD = WeightConfig(method="irpss", tau=2.0, gamma=2.0, truncate=5.0, defensive=0.0, soft_labels=0.0)
_SOFT = replace(_HARD, soft_labels=0.75)
_LABELS_ONLY = WeightConfig(method="none", soft_labels=0.75)
_ESS = replace(_HARD, gamma=0.0, tau="ess", ess_target=0.7)
_LOW_ESS = replace(_ESS, ess_target=0.3)
_BOTH = replace(_ESS, experimental=ExperimentalConfig(rejected_exponent=1.0))
_RESAMPLED = replace(_HARD, realisation="resampling")
_E_DPO = unweighted(distils=True, forward_kl=FORWARD_KL)

OURS, VARIANTS, ABLATIONS, CONTROLS, RIVALS, BOUNDS = (
    "this library",
    "other weights",
    "without a part",
    "controls",
    "rivals",
    "with the true reward",
)

ARMS: Mapping[str, Arm] = {
    "dpo": Arm("DPO", "single", unweighted(), "baseline"),
    "iwpo": Arm("IWPO", "single", weighted(_HARD), OURS),
    "iwpo_ensemble": Arm("IWPO, ensemble of 4", "ensemble", weighted(_HARD), OURS),
    "soft": Arm("IWPO + soft labels", "single", weighted(_SOFT), OURS),
    "soft_ensemble": Arm("IWPO + soft labels, ensemble of 4", "ensemble", weighted(_SOFT), OURS),
    "default": Arm("the defaults until 2026-11-26", "ensemble", weighted(UNTIL_NOW), OURS),
    "labels_only": Arm("soft labels without weights, ensemble of 4", "ensemble", weighted(_LABELS_ONLY), OURS),
    "ess": Arm("λ = 0, γ = 0, ESS 0.7", "single", weighted(_ESS), VARIANTS),
    "low_ess": Arm("λ = 0, γ = 0, ESS 0.3", "single", weighted(_LOW_ESS), VARIANTS),
    "lambda_one": Arm("λ = 1, γ = 0, ESS 0.7", "single", weighted(_BOTH), VARIANTS),
    "resampling": Arm("IWPO by resampling", "single", weighted(_RESAMPLED), VARIANTS),
    "hidden_states": Arm(
        "the defaults until 2026-11-26, rewards without log-probs", "hidden_states", weighted(UNTIL_NOW), ABLATIONS
    ),
    "one_cluster": Arm("IWPO, one cluster", "one_cluster", weighted(_HARD), ABLATIONS),
    "uncalibrated": Arm("IWPO, no calibration", "uncalibrated", weighted(_HARD), ABLATIONS),
    "in_sample": Arm("IWPO, no cross-fitting", "in_sample", weighted(_HARD), ABLATIONS),
    "overlap": Arm("IWPO, overlap term on", "overlap", weighted(_HARD), ABLATIONS),
    "soft_one_cluster": Arm("soft labels, one cluster", "one_cluster", weighted(_SOFT), ABLATIONS),
    "soft_uncalibrated": Arm("soft labels, no calibration", "uncalibrated", weighted(_SOFT), ABLATIONS),
    "soft_in_sample": Arm("soft labels, no cross-fitting", "in_sample", weighted(_SOFT), ABLATIONS),
    "soft_overlap": Arm("soft labels, overlap term on", "overlap", weighted(_SOFT), ABLATIONS),
    "shuffled_weights": Arm("IWPO, weights shuffled", "single", weighted(_HARD, shuffled=True), CONTROLS),
    "shuffled_labels": Arm("soft labels alone, shuffled", "ensemble", weighted(_LABELS_ONLY, shuffled=True), CONTROLS),
    "cheap_rival": Arm("soft labels 0.25 + 0.75 σ(Δ), in-sample", "plain", _cheap_rival, RIVALS),
    "d_dpo": Arm("d-DPO", "single", unweighted(distils=True), RIVALS),
    "e_dpo": Arm("e-DPO", "ensemble", _E_DPO, RIVALS),
    "p_dpo": Arm("p-DPO", "single", unweighted(forward_kl=FORWARD_KL), RIVALS),
    "wpo": Arm("WPO", "single", unweighted(wpo=True), RIVALS),
    "oracle": Arm("IWPO, true rewards", "oracle", weighted(_HARD), BOUNDS),
    "soft_oracle": Arm("IWPO + soft labels, true rewards", "oracle", weighted(_SOFT), BOUNDS),
    "e_dpo_biased_family": Arm("e-DPO, family by bias", "biased_family", _E_DPO, RIVALS),
}


def build_arms(world: World, names: Sequence[str], seed: int, catalogue: Mapping[str, Arm] = ARMS) -> list[ArmData]:
    """The training data of some arms; each reward model is fitted once."""
    arms = [catalogue[name] for name in names]
    scores = rewards.scores_by_model(world, (arm.model for arm in arms), seed)
    return [arm.build(scores[arm.model], seed) for arm in arms]
