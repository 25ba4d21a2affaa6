"""What a configuration asks for: one objective, or several with coefficients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.data.columns import REFERENCE, SCORES
from iwpo_fast.limits import BELOW_ONE
from iwpo_fast.objectives.divergence import DIVERGENCES, Divergence, DivergenceName, alpha_divergence, reverse_kl
from iwpo_fast.objectives.pair import Pair, Scores
from iwpo_fast.objectives.parameters import checked
from iwpo_fast.objectives.registry import (
    OBJECTIVES,
    Constants,
    FusedForm,
    Labels,
    Objective,
    Reads,
    State,
    get_objective,
)

REPORTED_BETA = 0.1


@dataclass(frozen=True)
class Mixture:
    """Σ_k c_k · [(1 - ε) ℓ_k(pair) + ε ℓ_k(flipped pair)], one loss per pair.

    Attributes:
        objectives: at least one.
        coefficients: of each objective, by name.
        parameters: of each objective, by name.
        divergence: map of log-ratios.
    """

    objectives: tuple[Objective, ...]
    coefficients: Mapping[str, float]
    parameters: Mapping[str, Mapping[str, float | str]]
    divergence: Divergence

    @classmethod
    def of(cls, config: ObjectiveConfig) -> Mixture:
        """Check the configuration and make what it describes.

        Raises:
            ValueError: a name or parameter is unknown or out of its range, or settings contradict one another; the
                message names the objective.
        """
        coefficients = {config.name: 1.0} if isinstance(config.name, str) else config.name
        if not coefficients:
            raise ValueError("objective.name is an empty mixture: name at least one objective and its coefficient.")
        objectives = tuple(get_objective(name) for name in coefficients)
        for name, coefficient in coefficients.items():
            is_number = isinstance(coefficient, int | float) and not isinstance(coefficient, bool)
            if not (is_number and 0 < coefficient < math.inf):
                raise ValueError(
                    f"The coefficient of {name} in objective.name is {coefficient!r}: it must be a positive number."
                )
        settings = _settings_by_objective(config, objectives)
        _check_smoothing(config.label_smoothing, objectives)
        divergence = _divergence(config, objectives)
        return cls(
            objectives=objectives,
            coefficients={name: float(coefficient) for name, coefficient in coefficients.items()},
            parameters={objective.name: _parameters(objective, settings[objective.name]) for objective in objectives},
            divergence=divergence,
        )

    @property
    def _reporting(self) -> Objective:
        """Its rewards are reported: the first with reference and beta, else with a beta, else the first."""
        with_beta = [objective for objective in self.objectives if "beta" in objective.parameters]
        with_reference = [objective for objective in with_beta if objective.uses_reference]
        return (with_reference or with_beta or self.objectives)[0]

    @property
    def beta(self) -> float:
        """Scale of the reported rewards; 1 where they are the policy's own, 0.1 where no objective has a beta."""
        if self._reporting.implicit == "own_reward":
            return 1.0
        return float(self.parameters[self._reporting.name].get("beta", REPORTED_BETA))

    @property
    def uses_reference(self) -> bool:
        return any(objective.uses_reference for objective in self.objectives)

    @property
    def uses_reference_of_all(self) -> bool:
        """Whether an objective reads the reference's log-probs of all candidates, and not of pairs alone."""
        return any(objective.uses_reference and Reads.CANDIDATES in objective.reads for objective in self.objectives)

    @property
    def reports_log_ratios(self) -> bool:
        """Reported rewards are relative to the reference, and so 0 while the policy is the reference."""
        return self._reporting.uses_reference

    def reads(self, what: Reads) -> bool:
        return self.reading(what) is not None

    def reading(self, what: Reads) -> str | None:
        """The name of the first objective that reads it."""
        return next((objective.name for objective in self.objectives if what in objective.reads), None)

    @property
    def smooths_labels(self) -> bool:
        """Whether labels can be smoothed, and whether that makes a difference."""
        flips = any(objective.flips for objective in self.objectives)
        return flips and not any(objective.one_sided for objective in self.objectives)

    @property
    def has_smoothing(self) -> bool:
        """Whether an objective assumes flipped labels by a parameter `epsilon`, whatever the smoothing around it."""
        return any(float(parameters.get("epsilon", 0)) > 0 for parameters in self.parameters.values())

    @property
    def has_statistics(self) -> bool:
        return any(objective.statistics is not None for objective in self.objectives)

    @property
    def needs_step_logps(self) -> bool:
        """Some objective compares log-probs over the whole step, so they are computed before any of its losses."""
        return any(objective.statistics is not None and not objective.from_data for objective in self.objectives)

    @property
    def fused(self) -> Callable[[Scores | None], FusedForm] | None:
        """From the pairs' scores to arguments of the fused kernel that computes this loss; None where it does not."""
        (first, *others) = self.objectives
        if others or first.fused is None or self.coefficients[first.name] != 1 or self.divergence is not reverse_kl:
            return None
        return functools.partial(first.fused, **self.parameters[first.name])

    def implicit_rewards(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """beta times the policy's score of the chosen and the rejected completions, [P] each, for metrics."""
        name = self._reporting.implicit
        return self.beta * getattr(pair.chosen, name), self.beta * getattr(pair.rejected, name)

    def size_of_rewards(self, pair: Pair) -> Tensor:
        """[P], beta times the sizes of the log-probs that both rewards are made of; own rewards are their own size."""
        implicit = self._reporting.implicit
        name = "logp" if implicit == "log_ratio" else implicit
        return self.beta * (getattr(pair.chosen, name).abs() + getattr(pair.rejected, name).abs())

    def constants(self, step: Pair, state: dict[str, State], rng: np.random.Generator | None) -> dict[str, Constants]:
        """What the objectives need to know of the whole step, [B] each, by name.

        Args:
            step: all B pairs of the step, on all ranks.
            state: running means by objective, changed in place.
            rng: random numbers that depend on seed and step alone; None in an evaluation.
        """
        step = step.detach()
        return {
            objective.name: objective.statistics(
                step, state.setdefault(objective.name, {}), rng, **self.parameters[objective.name]
            )
            for objective in self.objectives
            if objective.statistics is not None
        }

    def __call__(self, pair: Pair, constants: Mapping[str, Constants], smoothing: Tensor | float = 0.0) -> Tensor:
        """[P], unweighted.

        Args:
            pair: P pairs.
            constants: [P] each, as `constants` gives them for the whole step.
            smoothing: ε, the probability that a label is flipped, [P] or one number.
        """
        smooths = isinstance(smoothing, Tensor) or smoothing != 0
        terms = []
        for objective in self.objectives:
            name, parameters = objective.name, self.parameters[objective.name]
            in_step = replace(pair, step=constants.get(name, {}))
            loss = objective.loss(in_step, **parameters)
            if smooths and objective.flips:
                flipped = objective.flipped_loss(in_step, **parameters)
                loss = (1 - smoothing) * loss + smoothing * flipped
            terms.append(self.coefficients[name] * loss)
        return sum(terms[1:], start=terms[0])

    @property
    def takes_samples(self) -> bool:
        """Whether rows of one completion are samples of the reference."""
        return all(objective.samples for objective in self.objectives)

    def check_paired(self, where: str) -> None:
        """Raise ValueError unless every objective has a loss for rows of one completion.

        Args:
            where: what the first of these is called, such as "In kto.jsonl, row 3".
        """
        if self.takes_samples:
            return
        for objective in self.objectives:
            if not objective.unpaired:
                able = ", ".join(name for name, other in OBJECTIVES.items() if other.unpaired)
                raise ValueError(
                    f"{where} has one completion and a label, and the objective {objective.name} takes pairs: set "
                    f"objective.name to one of {able}, or give rows with chosen and rejected."
                )

    def check_columns(
        self,
        columns: Mapping[str, np.ndarray],
        smoothing: np.ndarray | float,
        source: str,
        numbers: np.ndarray | None = None,
        *,
        scored_later: bool = False,
        naming: str = "name yours in data.columns",
    ) -> None:
        """Raise ValueError if the data lack what an objective needs, or flip labels that it cannot flip.

        Args:
            columns: [P] each.
            numbers: int64 [P], the rows of the source that a sentence can name.
            scored_later: scores are not of the data, so they are not asked of them.
            naming: what to do with scores of another name, in the words of whoever reads the data.
        """
        for objective in self.objectives:
            name, reason = objective.name, objective.one_sided
            if reason is not None and np.any(np.asarray(smoothing) > 0):
                raise ValueError(
                    f"The objective {name} cannot smooth labels ({reason}): set objective.label_smoothing to 0 and "
                    f"leave the column label_smoothing out of {source}, or choose another objective."
                )
            if Reads.SHARED_TOKENS in objective.reads and REFERENCE[0] in columns:
                raise ValueError(
                    f"The objective {name} needs the reference's log-prob of every token, and {source} brings only "
                    f"their sums: leave the columns {' and '.join(REFERENCE)} out."
                )
            if Reads.CANDIDATES in objective.reads and objective.uses_reference and REFERENCE[0] in columns:
                raise ValueError(
                    f"The objective {name} needs the reference's log-prob of every candidate, and {source} brings "
                    f"those of chosen and rejected alone: leave the columns {' and '.join(REFERENCE)} out."
                )
            if Reads.SCORES in objective.reads and not scored_later:
                _check_scores(objective, columns, source, numbers, naming)


def _settings_by_objective(
    config: ObjectiveConfig, objectives: tuple[Objective, ...]
) -> dict[str, dict[str, float | str]]:
    """beta and params of the configuration, dealt to the objectives that they are for."""
    settings: dict[str, dict[str, float | str]] = {objective.name: {} for objective in objectives}
    if config.beta is not None:
        with_beta = [objective.name for objective in objectives if "beta" in objective.parameters]
        if not with_beta:
            raise ValueError(f"objective.beta is {config.beta} but {objectives[0].name} has no beta: leave it out.")
        for name in with_beta:
            settings[name]["beta"] = config.beta
    for key, value in config.params.items():
        name, parameter = _addressee(key, objectives)
        settings[name][parameter] = value
    return settings


def _parameters(objective: Objective, settings: Mapping[str, float | str]) -> dict[str, float | str]:
    """All parameters of an objective, as set or by default."""
    parameters = {
        name: checked(settings.get(name, default), objective.allowed[name], objective.name, name)
        for name, default in objective.parameters.items()
    }
    for name, (switch, values) in objective.only_with.items():
        if name in settings and parameters[switch] not in values:
            raise ValueError(
                f"{name} of the objective {objective.name} counts with {switch} {' or '.join(values)} only, and "
                f"{switch} is {parameters[switch]}: set that, or leave {name} out."
            )
    return parameters


def _addressee(key: str, objectives: tuple[Objective, ...]) -> tuple[str, str]:
    """Objective and parameter that a key of `objective.params` names."""
    if len(objectives) == 1:
        (only,) = objectives
        if key == "beta":
            raise ValueError("objective.params sets beta: set objective.beta instead.")
        if key not in only.parameters:
            others = [name for name in only.parameters if name != "beta"]
            there_are = f"choose among {', '.join(others)}" if others else "it has none beside beta"
            raise ValueError(
                f"objective.params sets {key}, which the objective {only.name} does not have: {there_are}."
            )
        return only.name, key
    keys = {
        f"{objective.name}.{name}": (objective.name, name) for objective in objectives for name in objective.parameters
    }
    if key not in keys:
        raise ValueError(
            f"objective.params sets {key}, which this mixture does not have: choose among {', '.join(keys)}."
        )
    return keys[key]


def _check_smoothing(smoothing: float, objectives: tuple[Objective, ...]) -> None:
    if smoothing not in BELOW_ONE:
        raise ValueError(f"objective.label_smoothing is {smoothing}: it must be {BELOW_ONE}.")
    unread = [objective.name for objective in objectives if objective.labels is Labels.UNUSED]
    if smoothing > 0 and len(unread) == len(objectives):
        raise ValueError(
            f"objective.label_smoothing is {smoothing} but {unread[0]} reads scores instead of labels: set it to 0."
        )


def _divergence(config: ObjectiveConfig, objectives: tuple[Objective, ...]) -> Divergence:
    if config.divergence != "reverse_kl":
        _check_transforms(config.divergence, objectives)
    if config.divergence == "alpha" and config.divergence_alpha is not None:
        return functools.partial(alpha_divergence, alpha=config.divergence_alpha)
    return DIVERGENCES[config.divergence]


def _check_transforms(divergence: DivergenceName, objectives: tuple[Objective, ...]) -> None:
    """Raise ValueError unless the objectives allow other divergences than the reverse KL."""
    with_reference = [objective for objective in objectives if objective.uses_reference]
    refusing = [objective for objective in with_reference if not objective.transforms]
    if refusing or not with_reference:
        name = (refusing or objectives)[0].name
        raise ValueError(
            f"objective.divergence is {divergence} but {name} is no function of differences of log-ratios, which "
            "alone other divergences leave known: set it to reverse_kl, or choose another objective."
        )


def _check_scores(
    objective: Objective, columns: Mapping[str, np.ndarray], source: str, numbers: np.ndarray | None, naming: str
) -> None:
    name = objective.name
    if "score_chosen" not in columns:
        raise ValueError(
            f"The objective {name} needs the columns score_chosen and score_rejected, which {source} lacks: add them, "
            f"or {naming}."
        )
    # In the type that training reads them in.
    chosen, rejected = (columns[side].astype(np.float32) for side in SCORES)
    chosen, rejected = chosen.reshape(len(chosen), -1), rejected.reshape(len(rejected), -1)
    absent = np.asarray((np.isnan(chosen) | np.isnan(rejected)).any(1))
    if absent.any():
        raise ValueError(
            f"The objective {name} needs all scores, and {absent.sum()} pairs of {source} lack one"
            f"{_first_row(absent, numbers)}: add them."
        )
    if Reads.FAMILY in objective.reads and chosen.shape[1] == 1:
        raise ValueError(
            f"The objective {name} needs scores of several reward models, and {source} has those of one: give lists of "
            "scores, or choose another objective."
        )
    if Reads.POSITIVE_GAP in objective.reads:
        wrong = np.asarray((chosen - rejected).mean(1) <= 0)
        if wrong.any():
            raise ValueError(
                f"The objective {name} needs score_chosen above score_rejected, and in {wrong.sum()} pairs of {source} "
                f"it is not{_first_row(wrong, numbers)}: leave these out, or choose another objective."
            )


def _first_row(wrong: np.ndarray, numbers: np.ndarray | None) -> str:
    return "" if numbers is None else f", first in row {numbers[wrong.argmax()]}"
