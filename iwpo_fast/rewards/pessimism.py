"""Rewards that are lowered where little is known of them (after BRAID, arXiv 2405.19673, as understood here)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from iwpo_fast.rewards.blocks import Float32s, Float64s, Groups, Ints
from iwpo_fast.rewards.heads import TrainingPairs
from iwpo_fast.rewards.uncertainty import Uncertainty

SCALES = {"bonus": True, "minimum": False}
"""Forms, and whether they have a scale and an uncertainty."""


class Lowered(NamedTuple):
    """Rewards after pessimism: `score` [C] and `members` [C, members], fp64."""

    score: Float64s
    members: Float64s


@dataclass(frozen=True)
class Pessimism:
    """What is taken off calibrated rewards.

    `bonus`: r̃ - c b, b by `Uncertainty`, the same for every member. It enters after the clip of calibration, because a
    reward that is far above it would hide the bonus, and nothing is clipped after it, because all that heads have not
    seen the like of would then be equally bad.
    `minimum`: the least of the members; these move together, so that the minimum is their mean, and disagree as before.

    Attributes:
        form: `bonus` or `minimum`.
        scale: c, log-odds per unit of b; None for `minimum`.
        uncertainty: behind b; None for `minimum`.
    """

    form: Literal["bonus", "minimum"]
    scale: float | None = None
    uncertainty: Uncertainty | None = None

    @classmethod
    def fit(cls, pairs: TrainingPairs, ridge: float) -> Self | None:
        """What `rewards.pessimism` asks for; None where it asks for nothing.

        Args:
            ridge: penalty on the shared vector of the heads.
        """
        asked = pairs.settings.pessimism
        if asked is None:
            return None
        if asked.form == "minimum":
            return cls("minimum")
        return cls("bonus", asked.scale, Uncertainty.fit(pairs, ridge, asked.ridge))

    def lower(self, score: Float64s, members: Float64s, groups: Groups, cluster: Ints, fold: Ints) -> Lowered:
        """Lower calibrated rewards.

        Args:
            score: [C].
            members: [C, members].
            groups: features of the C responses.
            cluster: [C].
            fold: [C], whose heads score a response; -1 for a new prompt.
        """
        if self.uncertainty is None or self.scale is None:
            least = members.min(axis=1)
            return Lowered(least, members + (least - members.mean(axis=1))[:, None])
        penalty = self.scale * self.uncertainty.bonus(groups, cluster, fold)
        return Lowered(score - penalty, members - penalty[:, None])

    def record(self) -> dict[str, Any]:
        """Its part of the record of a reward model."""
        return {"form": self.form, "scale": self.scale}

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file keeps of it beside the record."""
        return {} if self.uncertainty is None else dict(vars(self.uncertainty))

    @classmethod
    def of_record(cls, record: dict[str, Any] | None, arrays: dict[str, Float32s]) -> Self | None:
        """From what `record` and `arrays` gave; None where a reward model has no pessimism.

        Raises:
            KeyError, TypeError: the record names no form, or arrays are absent.
        """
        if record is None:
            return None
        if not SCALES[record["form"]]:
            return cls(record["form"])
        return cls(record["form"], float(record["scale"]), Uncertainty(**arrays))
