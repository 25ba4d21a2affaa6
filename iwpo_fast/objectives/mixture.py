"""What a configuration asks for: one objective, or several with coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.objectives.divergence import Divergence
from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.registry import Constants, Objective, State, get_objective

REPORTED_BETA = 0.1


@dataclass(frozen=True)
class Part:
    """One objective of a mixture, with its coefficient and parameters."""

    objective: Objective
    coefficient: float
    parameters: Mapping[str, float | str]

    @classmethod
    def of(cls, objective: Objective, coefficient: float, settings: Mapping[str, float | str]) -> Part:
        parameters = {
            name: parameter.checked(settings.get(name, parameter.default), objective.name, name)
            for name, parameter in objective.parameters.items()
        }
        return cls(objective, float(coefficient), parameters)

    @property
    def name(self) -> str:
        return self.objective.name


@dataclass(frozen=True)
class Mixture:
    """Σ_k c_k · [(1 - ε) ℓ_k(pair) + ε ℓ_k(flipped pair)], one loss per pair.

    Attributes:
        parts: at least one.
        divergence: map of log-ratios.
    """

    parts: tuple[Part, ...]
    divergence: Divergence

    @classmethod
    def of(cls, config: ObjectiveConfig) -> Mixture:
        """Check the configuration and make what it describes.

        Raises:
            ValueError: a name or parameter is unknown or out of its range, or settings do not go together; the
                sentence names the objective.
        """
        coefficients = {config.name: 1.0} if isinstance(config.name, str) else config.name
        if not coefficients:
            raise ValueError("objective.name is an empty mixture: name at least one objective and its coefficient.")
        objectives = [get_objective(name) for name in coefficients]
        for name, coefficient in coefficients.items():
            if not (isinstance(coefficient, int | float) and 0 < coefficient < float("inf")):
                raise ValueError(f"The coefficient of {name} in objective.name is {coefficient}: it must be positive.")
        settings = _settings_by_objective(config, objectives)
        divergence = Divergence(config.divergence, config.divergence_alpha)
        _check_divergence(divergence, objectives)
        return cls(
            parts=tuple(
                Part.of(objective, coefficients[objective.name], settings[objective.name]) for objective in objectives
            ),
            divergence=divergence,
        )

    @property
    def beta(self) -> float:
        """Scale of the reported rewards: the beta of the first part that has one."""
        return next((float(part.parameters["beta"]) for part in self.parts if "beta" in part.parameters), REPORTED_BETA)

    @property
    def uses_reference(self) -> bool:
        return any(part.objective.uses_reference for part in self.parts)

    def needs(self, what: str) -> bool:
        return any(what in part.objective.needs for part in self.parts)

    @property
    def needs_step_logps(self) -> bool:
        """Some part compares log-probs over the whole step, so they are computed before any of its losses."""
        return any(part.objective.statistics is not None and not part.objective.from_data for part in self.parts)

    def closed_form(self, data: Pair) -> dict[str, Any] | None:
        """Arguments of the fused kernel that computes this loss, or None where it does not.

        Args:
            data: the pairs; their log-probs are not read.
        """
        (first, *others) = self.parts
        if others or first.objective.closed is None or first.coefficient != 1 or self.divergence.name != "reverse_kl":
            return None
        return first.objective.closed(data, **first.parameters)

    def implicit_rewards(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """beta times the policy's score of the chosen and the rejected completions, [P] each, for metrics."""
        name = "log_ratio" if self.uses_reference else self.parts[0].objective.implicit
        return self.beta * getattr(pair.chosen, name), self.beta * getattr(pair.rejected, name)

    def constants(self, step: Pair, state: dict[str, State], rng: np.random.Generator) -> dict[str, Constants]:
        """What the parts need to know of the whole step, [B] each, by objective.

        Args:
            step: all B pairs of the step, on all ranks.
            state: running means by objective, changed in place.
            rng: random numbers that depend on seed and step alone.
        """
        step = step.detach()
        return {
            part.name: part.objective.statistics(step, state.setdefault(part.name, {}), rng, **part.parameters)
            for part in self.parts
            if part.objective.statistics is not None
        }

    def __call__(self, pair: Pair, constants: Mapping[str, Constants], smoothing: Tensor | float = 0.0) -> Tensor:
        """[P], unweighted.

        Args:
            pair: P pairs.
            constants: [P] each, rows of `constants` of the step.
            smoothing: ε, the probability that a label is flipped, [P] or one number.
        """
        flips = isinstance(smoothing, Tensor) or smoothing != 0
        terms = []
        for part in self.parts:
            of_part = pair.with_step(constants.get(part.name, {}))
            loss = part.objective(of_part, part.parameters)
            if flips and part.objective.labels == "used":
                flipped = part.objective(of_part.swapped(), part.parameters)
                loss = (1 - smoothing) * loss + smoothing * flipped
            terms.append(part.coefficient * loss)
        return sum(terms[1:], start=terms[0])

    def check_columns(self, columns: Mapping[str, np.ndarray], smoothing: np.ndarray | float, source: str) -> None:
        """Raise ValueError if the data lack what a part needs, or flip labels where a part has no other side."""
        for part in self.parts:
            name, reason = part.name, part.objective.other_side_missing
            if reason is not None and np.any(np.asarray(smoothing) > 0):
                raise ValueError(
                    f"The objective {name} cannot smooth labels ({reason}): set objective.label_smoothing to 0 and "
                    f"leave the column label_smoothing out of {source}, or choose another objective."
                )
            if "scores" in part.objective.needs:
                _check_scores(name, columns, source, positive="positive_gap" in part.objective.needs)


def _settings_by_objective(config: ObjectiveConfig, objectives: list[Objective]) -> dict[str, dict[str, float | str]]:
    """beta and params of the configuration, dealt to the objectives that they are for."""
    settings: dict[str, dict[str, float | str]] = {objective.name: {} for objective in objectives}
    if config.beta is not None:
        with_beta = [objective.name for objective in objectives if "beta" in objective.parameters]
        if not with_beta:
            raise ValueError(f"objective.beta is {config.beta} but {objectives[0].name} has no beta: leave it out.")
        for name in with_beta:
            settings[name]["beta"] = config.beta
    for key, value in config.params.items():
        name, _, parameter = key.rpartition(".") if "." in key else (objectives[0].name, "", key)
        if name not in settings or ("." not in key and len(objectives) > 1):
            raise ValueError(
                f"objective.params sets {key}: in a mixture write the objective before it, as in "
                f"{objectives[-1].name}.{parameter}."
            )
        known = next(objective for objective in objectives if objective.name == name).parameters
        if parameter not in known:
            there_are = f"choose among {', '.join(known)}" if known else "it has none"
            raise ValueError(f"objective.params sets {key}, which the objective {name} does not have: {there_are}.")
        settings[name][parameter] = value
    return settings


def _check_divergence(divergence: Divergence, objectives: list[Objective]) -> None:
    if divergence.name == "reverse_kl":
        return
    for objective in objectives:
        if not (objective.uses_reference and objective.transforms):
            raise ValueError(
                f"objective.divergence is {divergence.name} but {objective.name} has no log-ratios to transform: "
                "leave it at reverse_kl, or choose another objective."
            )


def _check_scores(name: str, columns: Mapping[str, np.ndarray], source: str, *, positive: bool) -> None:
    if "score_chosen" not in columns:
        raise ValueError(
            f"The objective {name} needs the columns score_chosen and score_rejected, which {source} lacks: add them, "
            "or name yours in data.columns."
        )
    chosen, rejected = columns["score_chosen"], columns["score_rejected"]
    absent = int((np.isnan(chosen) | np.isnan(rejected)).reshape(len(chosen), -1).any(1).sum())
    if absent:
        raise ValueError(f"The objective {name} needs all scores, and {absent} pairs of {source} lack one: add them.")
    if positive:
        gaps = (chosen - rejected).reshape(len(chosen), -1).mean(1)
        wrong = int((gaps <= 0).sum())
        if wrong:
            raise ValueError(
                f"The objective {name} needs score_chosen above score_rejected, and in {wrong} pairs of {source} it is "
                "not: leave these out, or choose another objective."
            )
