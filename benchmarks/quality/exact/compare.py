"""Comparison at matched KL, paired by world, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]
START = {"gold": 0.0, "scaled_gold": 0.0, "win_rate": 0.5}


@dataclass(frozen=True)
class Paths:
    """How the policies of a regime moved.

    Attributes:
        arms: names of A arms, `dpo` among them.
        kl: [W, A, S] at S checkpoints, from near 0 on.
        values: gold, scaled_gold and win_rate, each [W, A, S].
    """

    arms: Sequence[str]
    kl: Floats
    values: Mapping[str, Floats]

    def of(self, measure: str, arm: str) -> tuple[Floats, Floats]:
        """KL and a measure of one arm, each [W, S]."""
        index = list(self.arms).index(arm)
        return self.kl[:, index], self.values[measure][:, index]


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


def budgets(paths: Paths, share: float = 1.0) -> Floats:
    """The KL at which arms are compared in each world [W]: a share of the KL where DPO has its most gold.

    DPO is thus taken at its best step, which no user could know; every other arm is held to that KL.
    """
    kl, gold = paths.of("gold", "dpo")
    return share * kl[np.arange(len(kl)), gold.argmax(1)]


def at_kl(kl: Floats, value: Floats, budget: float, start: float) -> tuple[float, bool]:
    """Value of a path [S] where its KL first reaches the budget, between checkpoints by a straight line.

    A path that stays below the budget gives the value at its largest KL, and False.
    """
    kl, value = np.concatenate([[0.0], kl]), np.concatenate([[start], value])
    above = np.flatnonzero(kl >= budget)
    if not len(above):
        return float(value[kl.argmax()]), False
    after = int(above[0])
    if after == 0:
        return float(value[0]), True
    before = after - 1
    part = (budget - kl[before]) / (kl[after] - kl[before])
    return float(value[before] + part * (value[after] - value[before])), True


def matched(paths: Paths, arm: str, measure: str, budget: Floats) -> tuple[Floats, float]:
    """A measure at each world's budget [W], and the share of worlds where the arm reached it."""
    kl, value = paths.of(measure, arm)
    found = [at_kl(k, v, b, START[measure]) for k, v, b in zip(kl, value, budget, strict=True)]
    return np.array([value for value, _ in found]), float(np.mean([reached for _, reached in found]))


def relative_change(changed: Floats, base: Floats) -> Interval:
    """Mean change over worlds divided by the mean of the base, in per cent, paired by world.

    The interval is Student's, with the standard error of a ratio of means (Cochran 1977, section 2.11).
    """
    ratio = (changed - base).mean() / base.mean()
    return _student(100 * (ratio + (changed - base - ratio * base) / base.mean()))


def mean_of_changes(regimes: Sequence[tuple[Floats, Floats]]) -> Interval:
    """Mean over regimes of their relative changes, in per cent; worlds of one seed are paired across regimes."""
    linear = []
    for changed, base in regimes:
        ratio = (changed - base).mean() / base.mean()
        linear.append(100 * (ratio + (changed - base - ratio * base) / base.mean()))
    return _student(np.mean(linear, axis=0))


def mean_interval(values: Floats) -> Interval:
    """Of the mean over worlds."""
    return _student(values)


def _student(values: Floats) -> Interval:
    mean = float(values.mean())
    half = float(student.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)
