"""Parameters of an objective: the keyword arguments of its function, and which values they may take."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Limits:
    """Numbers from `low` to `high`; open ends are excluded."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            if self.low == -math.inf:
                return "finite"
            return f"finite and {'more than' if self.low_open else 'at least'} {self.low:g}"
        return f"in {'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"


POSITIVE = Limits(0, low_open=True)
NOT_NEGATIVE = Limits(0)
FLIP_RATE = Limits(0, 0.5, high_open=True)
FRACTION = Limits(0, 1)


@dataclass(frozen=True)
class Parameter:
    """Attributes:
    default: value where nothing is set.
    limits: range of a number.
    choices: allowed words, or () for a number.
    """

    default: float | str
    limits: Limits
    choices: tuple[str, ...] = ()

    def checked(self, value: float | str, owner: str, name: str) -> float | str:
        """`value`, or ValueError with what it must be."""
        if self.choices:
            if value not in self.choices:
                raise ValueError(
                    f"{name} of the objective {owner} is {value!r}: choose one of {', '.join(self.choices)}."
                )
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or value not in self.limits:
            raise ValueError(f"{name} of the objective {owner} is {value!r}: it must be a number, {self.limits}.")
        return float(value)


def parameters_of(function: Callable[..., Any], limits: Mapping[str, Limits]) -> dict[str, Parameter]:
    """The keyword-only arguments of `function`; `beta` is positive, others are finite unless `limits` says more."""
    hints = get_type_hints(function)
    found = {}
    for name, argument in inspect.signature(function).parameters.items():
        if argument.kind is not argument.KEYWORD_ONLY:
            continue
        choices = get_args(hints[name]) if get_origin(hints[name]) is Literal else ()
        found[name] = Parameter(
            argument.default, limits.get(name, POSITIVE if name == "beta" else Limits()), tuple(choices)
        )
    unknown = limits.keys() - found.keys()
    assert not unknown, f"limits of unknown parameters {unknown}"
    return found
