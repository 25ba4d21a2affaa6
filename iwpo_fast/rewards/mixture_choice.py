"""How well mixtures, and what they have to be better than, predict labels of folds that they did not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from iwpo_fast.rewards.blocks import Float64s
from iwpo_fast.rewards.calibration import logistic_slope
from iwpo_fast.rewards.mixture import LabelledPrompts, Mixture, Penalties, fit_mixture, start_mixture
from iwpo_fast.rewards.mixture_inputs import Inputs

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
RESIDUALS_BY_RIDGE = (0.3, 3.0)
GATES = (1e-5, 1e-4)
"""Penalties of heads and gates, for features scaled to a mean square norm of 1."""


class Trial(NamedTuple):
    """Mixtures of all folds under some penalties, and the loss [P], in nats, of every pair that they had not seen."""

    kind: str
    penalties: Penalties
    mixtures: list[Mixture]
    losses: Float64s

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


def best(trials: Sequence[Trial], kinds: Sequence[str]) -> Trial:
    """The one of these kinds with the least held-out loss."""
    return min((trial for trial in trials if trial.kind in kinds), key=lambda trial: trial.loss)


def held_out_trials(inputs: Inputs) -> list[Trial]:
    """One head, heads in the cells of k-means, and mixtures: what each predicts of the folds it did not see."""
    ones, start, no_gate = np.ones((len(inputs.fold), 1)), inputs.start(), GATES[-1]
    single = [_trial("one head", inputs, ones, Penalties(r, r, no_gate), start_mixture) for r in RIDGES]
    ridge = best(single, ["one head"]).penalties.shared
    residuals = [ridge * factor for factor in RESIDUALS_BY_RIDGE]
    # A mixture of which one expert is left has the penalties of this head, which must not be its merit.
    single += [_trial("one head", inputs, ones, Penalties(ridge, r, no_gate), start_mixture) for r in residuals]
    cells = [_trial("kmeans", inputs, start, Penalties(ridge, r, no_gate), start_mixture) for r in residuals]
    mixtures = [mixture_trial(inputs, Penalties(ridge, *pair)) for pair in product(residuals, GATES)]
    return [*single, *cells, *mixtures]


def mixture_trial(inputs: Inputs, penalties: Penalties) -> Trial:
    """Mixtures that start from the cells of k-means."""
    return _trial("mixture", inputs, inputs.start(), penalties, fit_mixture)


def _trial(
    kind: str,
    inputs: Inputs,
    start: Float64s,
    penalties: Penalties,
    fit: Callable[[LabelledPrompts, Float64s, Penalties], Mixture],
) -> Trial:
    examples, fold = inputs.examples, inputs.fold
    gaps, mixtures = np.empty(len(examples.gaps)), []
    for f in range(inputs.folds):
        held_out = examples.take(fold == f)
        mixture = fit(examples.take(fold != f), start[fold != f], penalties)
        expert = mixture.assign(held_out.prompts) if kind == "mixture" else start[fold == f].argmax(axis=1)
        margins = mixture.margins(held_out.gaps)
        gaps[fold[examples.prompt] == f] = margins[np.arange(len(margins)), expert[held_out.prompt]]
        mixtures.append(mixture)
    return Trial(kind, penalties, mixtures, np.logaddexp(0, -logistic_slope(gaps) * gaps))
