"""Comparison of arms at equal KL, paired by world, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from lab.exact.evaluate import BUDGETS
from lab.exact.rewards import Floats

# What came of the arms of a regime, by arm and by measure of `evaluate.MEASURES`: [W, 1 + budgets], the first of the
# policies as trained.
Outcomes = Mapping[str, Mapping[str, Floats]]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 above zero, -1 below, 0 where the interval holds zero."""
        return int(self.low > 0) - int(self.high < 0)


def at(budget: float, measure: str, outcomes: Mapping[str, Floats]) -> Floats:
    """[W], of one arm at a KL of `evaluate.BUDGETS`."""
    return outcomes[measure][:, 1 + BUDGETS.index(budget)]


def relative_change(changed: Floats, base: Floats) -> Interval:
    """Mean change over worlds divided by the mean of the base, in per cent, paired by world.

    The interval is Student's, with the standard error of a ratio of means (Cochran 1977, section 2.11).
    """
    return mean_interval(_linear(changed, base))


def mean_of_changes(regimes: Sequence[tuple[Floats, Floats]]) -> Interval:
    """Mean over regimes of their relative changes, in per cent; worlds of one seed are paired across regimes."""
    return mean_interval(np.mean([_linear(changed, base) for changed, base in regimes], axis=0))


def _linear(changed: Floats, base: Floats) -> Floats:
    """One value per world whose mean is the relative change and whose spread is that of the ratio of means."""
    ratio = (changed - base).mean() / base.mean()
    return 100 * (ratio + (changed - base - ratio * base) / base.mean())


def mean_interval(values: Floats) -> Interval:
    """Student's, of the mean over worlds."""
    mean = float(values.mean())
    half = float(student.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)
