"""The preference objectives by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from iwpo_fast.objectives import pairwise


@dataclass(frozen=True)
class Objective:
    """A loss per pair as a function of the margin h = s_w - s_l.

    Attributes:
        name: name in configurations.
        loss: (h [P], beta) to one loss per pair [P].
        form: closed form of the fused kernel that computes the same loss.
        average: s is the mean over completion tokens instead of the sum.
    """

    name: str
    loss: Callable[[Tensor, float], Tensor]
    form: Literal["sigmoid", "squared", "hinge"]
    average: bool = False


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("sigmoid", pairwise.sigmoid, form="sigmoid"),
        Objective("ipo", pairwise.ipo, form="squared", average=True),
    )
}


def get_objective(name: str) -> Objective:
    """The objective of that name; ValueError lists the names there are."""
    if name not in OBJECTIVES:
        raise ValueError(f"objective.name {name!r} is unknown: choose one of {', '.join(sorted(OBJECTIVES))}.")
    return OBJECTIVES[name]
