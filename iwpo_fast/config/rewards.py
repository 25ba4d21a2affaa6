"""Where rewards come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from iwpo_fast.config.model import LoraConfig
from iwpo_fast.config.optim import OptimConfig
from iwpo_fast.limits import BELOW_ONE, FRACTION, NOT_NEGATIVE, POSITIVE, POSITIVE_OR_INFINITE, SHARE, Limits


@dataclass
class TuningConfig:
    """Fine-tuning of the model whose features rewards are read from: one adapter for each fold.

    Args:
        lora: Adapter.
        optim: Optimiser and schedule; an epoch is one over the pairs of the other folds.
        language_modelling: Factor of a language-modelling loss on the chosen responses, in nats a token, beside the
            loss of the rewards; 0 leaves it out (docs/systems/drdo.md).
    """

    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-4))
    language_modelling: Annotated[float, NOT_NEGATIVE] = 0.0


@dataclass
class CategoryConfig:
    """Ordered categories of `rewards.heads: dprm`, made of the scores of the data.

    Args:
        count: The most categories; scores of more different values fall into as many bins of one width.
        prior: Votes that the distribution of all scores counts as, beside the scores that a response has itself.
        smoothing: Share of the mass of a category that moves to those beside it.
        loss: `transport` is what it costs to move the mass of one distribution to where the other has it;
            `cross_entropy` does not know which categories are near one another.
        cost_exponent: The cost of moving is the distance of the values to this power, for `loss: transport`; 1 has a
            closed form, others take Sinkhorn's iterations.
    """

    count: Annotated[int, Limits(2)] = 6
    prior: Annotated[float, NOT_NEGATIVE] = 1.0
    smoothing: Annotated[float, BELOW_ONE] = 0.1
    loss: Literal["transport", "cross_entropy"] = "transport"
    cost_exponent: Annotated[float, POSITIVE] = 1.0


@dataclass
class PessimismConfig:
    """How rewards are lowered where little is known of them (docs/systems/braid.md).

    Args:
        form: `bonus` takes off how far the features of a response are from what heads learnt from; `minimum` takes the
            least reward among the members of the ensemble.
        scale: Log-odds that are taken off per unit of the bonus, for `form: bonus`; 2 is about one standard error of
            the reward, and 0 takes nothing off.
        ridge: Added to the squares of the pairs' differences, for `form: bonus`; `auto` takes what the penalty of the
            heads amounts to.
    """

    form: Literal["bonus", "minimum"] = "bonus"
    scale: Annotated[float, NOT_NEGATIVE] = 2.0
    ridge: Annotated[float, POSITIVE] | Literal["auto"] = "auto"


@dataclass
class FamilyConfig:
    """Heads that each learn from other pairs, a family for e-DPO, in the place of bootstraps (docs/systems/family.md).

    Args:
        rates: Each member learns from pairs that are drawn anew so that, among those whose responses differ in length,
            the longer one is chosen at such a rate; `natural` takes the pairs as they are.
        longer_by: By what share a response must have more tokens than the other to count as the longer one.
        resamples: Members at each rate, each from a draw of its own.
        subsets: Further members, which learn from random parts of the prompts, without bias.
        share: Share of the prompts that each of these learns from.
    """

    rates: list[Annotated[float, FRACTION] | Literal["natural"]] = field(
        default_factory=lambda: [0.2, 0.35, 0.5, 0.65, 0.8]
    )
    longer_by: Annotated[float, NOT_NEGATIVE] = 0.1
    resamples: Annotated[int, POSITIVE] = 1
    subsets: Annotated[int, NOT_NEGATIVE] = 0
    share: Annotated[float, SHARE] = 0.8

    @property
    def biased(self) -> list[float]:
        """The rates that are drawn to."""
        return [rate for rate in self.rates if not isinstance(rate, str)]

    @property
    def members(self) -> int:
        return len(self.rates) + (self.resamples - 1) * len(self.biased) + self.subsets


@dataclass
class RewardConfig:
    """Rewards: heads on frozen features, one shared vector plus a residual per cluster, then calibration (MCRM).

    Args:
        source: `features` learns heads on the frozen model's features; `columns` takes the data's `score_chosen` and
            `score_rejected`, and `model` those of a reward model, on any scale, and only clusters and calibrates;
            `iwpo` takes the calibrated scores of a reward model that another run left in `rewards/reward_model`.
        model: Folder or hub id of a sequence classifier with one label, for `source: model`; folder of a reward model
            of another run, for `source: iwpo`.
        tuning: Fine-tune the model under the heads, for `source: features`; null leaves it frozen. It costs a training
            for each fold, on one device, so take two folds.
        likelihood: The mean log-prob of a response's tokens under the frozen model is a feature of it, beside hidden
            states, for `source: features`. `auto` takes it unless `tuning` is set, because it helps less the more the
            hidden states are tuned (docs/iwpo.md).
        ridge: Penalty on the shared vector, for features scaled to a mean square norm of 1; `auto` chooses it by
            cross-validation.
        residual: Penalty on each cluster's residual; `auto` chooses it by cross-validation, null leaves residuals out.
        heads: `linear`; `mlp` puts a small network on the same features beside each linear head, of a width and decay
            that cross-validation chooses; `auto` does so where held-out labels are predicted better by more than a
            standard error, and never with `tuning` or `overlap`; `gpm` embeds responses
            so that scores of pairs may be cyclic (docs/systems/gpm.md); `dprm` learns from the scores of the data how
            a response would be graded, as a distribution (docs/systems/dprm.md).
        preference_dimension: Dimensions of the embeddings of `heads: gpm`, an even number; with 2, and one of them the
            same for all responses, it is a Bradley-Terry reward.
        categories: Of the grades that `heads: dprm` tells.
        centring: Penalty on the squared mean reward of a pair, which fixes the level of rewards.
        overlap: Weight of the surrogate for the overlap of chosen and rejected rewards inside a cluster.
        folds: Parts, by prompt, each scored by a model that never saw it; 1 scores all pairs with a model that saw all.
        ensemble: Bootstrapped heads whose rewards are averaged; they are also the family for e-DPO.
        family: Heads that learn from other pairs each, such as at several rates of length bias; null bootstraps.
        calibration: Turn rewards into log-odds, by centre and slope of each cluster on unseen pairs; without it the raw
            rewards are used, unclipped and fully trusted.
        calibration_strength: How strongly each cluster's slope is pulled towards the pooled slope, in pairs.
        max_reward: Calibrated rewards are clipped to this size, before pessimism.
        pessimism: Lower calibrated rewards where little is known of them, for `source: features`; null does not.
    """

    source: Literal["features", "columns", "model", "iwpo"] = "features"
    model: str | None = None
    tuning: TuningConfig | None = None
    likelihood: bool | Literal["auto"] = "auto"
    ridge: Annotated[float, POSITIVE] | Literal["auto"] = "auto"
    residual: Annotated[float, POSITIVE] | Literal["auto"] | None = "auto"
    heads: Literal["linear", "mlp", "auto", "gpm", "dprm"] = "auto"
    preference_dimension: Annotated[int, Limits(2)] = 4
    categories: CategoryConfig = field(default_factory=CategoryConfig)
    centring: Annotated[float, NOT_NEGATIVE] = 0.01
    overlap: Annotated[float, NOT_NEGATIVE] = 0.0
    folds: Annotated[int, POSITIVE] = 4
    ensemble: Annotated[int, POSITIVE] = 4
    calibration: bool = True
    calibration_strength: Annotated[float, NOT_NEGATIVE] = 200.0
    max_reward: Annotated[float, POSITIVE_OR_INFINITE] = 5.0
    pessimism: PessimismConfig | None = None
    family: FamilyConfig | None = None

    @property
    def members(self) -> int:
        """Heads that score every response."""
        return self.ensemble if self.family is None else self.family.members

    @property
    def learns_from_votes(self) -> bool:
        """Heads learn how a response would be graded from the votes of annotators on it."""
        return self.source == "features" and self.heads == "dprm"
