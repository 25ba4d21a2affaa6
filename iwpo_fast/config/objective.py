"""The loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from iwpo_fast.limits import BELOW_ONE, FINITE, POSITIVE

SYNONYMS = {"dpo": "sigmoid"}
"""Objectives by another name."""


@dataclass
class ObjectiveConfig:
    """The preference objective; docs/objectives.md lists them all.

    Args:
        name: Name of the objective, such as `sigmoid` (DPO, and `dpo` is the same), or a mixture such as {sigmoid: 0.8,
            bco: 0.2, sft: 1.0}.
        beta: Strength of the pull towards the reference; null takes the objective's own default.
        params: Further parameters, such as {gamma: 1.0}; in a mixture with the objective before, {bco.beta: 0.2}.
        label_smoothing: Probability that a label is flipped; a column `label_smoothing` takes its place.
        normalize: Divide the weighted loss by the number of pairs (`count`) or by the sum of weights (`weights`).
        divergence: Divergence from the reference that is penalised (f-DPO, arXiv 2309.16240).
        divergence_alpha: Which of the `alpha` divergences, null for 0.5; 1 is the reverse KL.
        reward_head_lr: Peak learning rate of the reward head that `drdo` trains with the policy, beside `optim.lr`,
            whose schedule it follows; null takes `optim.lr`.
    """

    name: str | dict[str, float] = "sigmoid"
    beta: float | None = None
    params: dict[str, float | str] = field(default_factory=dict)
    label_smoothing: Annotated[float, BELOW_ONE] = 0.0
    normalize: Literal["count", "weights"] = "count"
    divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = "reverse_kl"
    divergence_alpha: Annotated[float, FINITE] | None = None
    reward_head_lr: Annotated[float, POSITIVE] | None = None

    def __post_init__(self) -> None:
        """Give an objective the one name by which files and records know it."""
        if isinstance(self.name, str):
            self.name = SYNONYMS.get(self.name, self.name)
        elif isinstance(self.name, dict):
            self.name = _by_one_name(self.name)


def _by_one_name(mixture: dict[str, float]) -> dict[str, float]:
    named = {SYNONYMS.get(name, name): coefficient for name, coefficient in mixture.items()}
    if len(named) < len(mixture):
        raise ValueError(f"objective.name is {mixture}, which has one objective by two names: give it once.")
    return named
