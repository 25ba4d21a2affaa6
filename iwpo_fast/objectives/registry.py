"""The objectives by name. The file of each family registers them with the decorator `objective`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

import numpy as np
from torch import Tensor

from iwpo_fast.config import SYNONYMS
from iwpo_fast.limits import Limits
from iwpo_fast.nearest import nearest
from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.parameters import Allowed, parameters_of

if TYPE_CHECKING:
    from iwpo_kernels.weighted_preference.types import Form

Implicit = Literal["log_ratio", "logp", "mean_logp", "own_reward"]
Source = Literal["text", "code", "description", "derived"]
State = dict[str, float]


class Labels(Enum):
    """Whether an objective reads which completion was chosen; where it does not, swapping the two changes nothing."""

    USED = "used"
    UNUSED = "unused"


class Reads(Flag):
    """What an objective reads beside log-probs and lengths.

    POSITIVE_GAP and FAMILY say more about SCORES: the chosen one is larger, and there are several reward models.
    ALIGNMENT is the distribution of each token (WPO), SHARED_TOKENS the reference's log-prob of each token (LD-DPO),
    OWN_REWARD the reward of a head that is trained with the policy (DRDO), CANDIDATES all scored candidates of a row,
    ORDER their order, in which chosen is the first and rejected the last (rankings).
    """

    NOTHING = 0
    SCORES = auto()
    POSITIVE_GAP = auto()
    FAMILY = auto()
    ALIGNMENT = auto()
    SHARED_TOKENS = auto()
    OWN_REWARD = auto()
    CANDIDATES = auto()
    ORDER = auto()


Constants = dict[str, Tensor]


class FusedForm(TypedDict, total=False):
    """Arguments of `weighted_preference_loss` that say which loss it is; tensors have an entry for each pair, [P]."""

    form: Form
    beta: float
    margin: Tensor
    target: Tensor
    label_smoothing: Tensor | float
    average: bool


class Statistics(Protocol):
    """Constants of a step, from the detached pairs of all its micro-batches and ranks.

    Args:
        step: all B pairs of the step, in the same order on every rank.
        state: running means of earlier steps, to be changed in place.
        rng: random numbers that depend on seed and step alone; None in an evaluation, where nothing is drawn.

    Returns:
        [B] each.
    """

    def __call__(
        self, step: Pair, state: State, rng: np.random.Generator | None, /, **parameters: Any
    ) -> Constants: ...


@dataclass(frozen=True)
class Objective:
    """One preference loss per pair, without weights and without reduction.

    Attributes:
        name: name in configurations.
        loss: (pair, **parameters) to [P].
        parameters: default of everything that can be set, by name.
        allowed: what each of them may be.
        formula, paper, arxiv, source, note: for the table of objectives; `source` says what was at hand: the paper's
            text, the authors' or TRL's code, only a description, or our own derivation.
        implicit: the policy's score of a completion; beta times it is reported as its reward, an own reward as it is.
        transforms: other f-divergences than the reverse KL can be chosen. They leave a normaliser of the prompt, which
            cancels in differences of log-ratios only.
        reads: see `Reads`.
        only_with: for a parameter that another one turns on, that one's name and the values that do.
        labels: see `Labels`.
        flipped: the loss of a pair whose label is flipped; None where it is that of the pair turned around.
        one_sided: the reason why a label cannot be flipped, or None if it can.
        fused: (scores, **parameters) to arguments of the fused kernel that computes the same loss; scores are None
            where the objective does not read them. Labels are smoothed as configuration and data say, unless these
            arguments say `label_smoothing` themselves.
        statistics: constants over the whole step.
        from_data: `statistics` reads lengths and scores only, which are known before any forward pass.
        unpaired: the loss is a sum of a term of each completion (`Pair.over_sides`), so that rows of one completion
            have a loss too.
        samples: rows of one completion are samples of the reference, on which the loss is gamma times the forward KL.
    """

    name: str
    loss: Callable[..., Tensor]
    parameters: Mapping[str, float | str]
    allowed: Mapping[str, Allowed]
    formula: str
    paper: str
    arxiv: str
    source: Source
    note: str = ""
    implicit: Implicit = "log_ratio"
    transforms: bool = True
    reads: Reads = Reads.NOTHING
    only_with: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    labels: Labels = Labels.USED
    flipped: Callable[..., Tensor] | None = None
    one_sided: str | None = None
    fused: Callable[..., FusedForm] | None = None
    statistics: Statistics | None = None
    from_data: bool = False
    unpaired: bool = False
    samples: bool = False

    @property
    def uses_reference(self) -> bool:
        return self.implicit == "log_ratio"

    def flipped_loss(self, pair: Pair, **parameters: float | str) -> Tensor:
        """[P], the losses of pairs whose labels are flipped."""
        return self.loss(pair.swapped(), **parameters) if self.flipped is None else self.flipped(pair, **parameters)

    @property
    def flips(self) -> bool:
        """Whether a flipped label gives another loss."""
        return self.labels is Labels.USED and self.one_sided is None


Loss = Callable[..., Tensor]
OBJECTIVES: dict[str, Objective] = {}


def objective(name: str, *, limits: Mapping[str, Limits] | None = None, **attributes: Any) -> Callable[[Loss], Loss]:
    """Register a function (pair, *, parameters) -> [P]; its keyword arguments are the parameters."""

    def register(loss: Loss) -> Loss:
        assert name not in OBJECTIVES
        OBJECTIVES[name] = Objective(name, loss, *parameters_of(loss, limits or {}), **attributes)
        return loss

    return register


def get_objective(name: str) -> Objective:
    """The objective of that name; ValueError lists the names there are."""
    if name not in OBJECTIVES:
        meant = nearest(name.removesuffix("_pair"), [*SYNONYMS, *sorted(OBJECTIVES)])
        question = f" (did you mean {meant}?)" if meant else ""
        raise ValueError(
            f"objective.name {name!r} is unknown{question}: choose one of {', '.join(sorted(OBJECTIVES))}."
        )
    return OBJECTIVES[name]
