"""Parameters of an objective: the keyword arguments of its function, and what values they may have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from iwpo_fast.limits import FINITE, POSITIVE, Limits

Allowed = Limits | tuple[str, ...]
"""What a parameter may be: a number within limits, or one of a few words."""


def checked(value: float | str, allowed: Allowed, owner: str, name: str) -> float | str:
    """`value`, or ValueError with what it must be."""
    if isinstance(allowed, tuple):
        if value not in allowed:
            raise ValueError(f"{name} of the objective {owner} is {value!r}: choose one of {', '.join(allowed)}.")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in allowed:
        raise ValueError(f"{name} of the objective {owner} is {value!r}: it must be a number, {allowed}.")
    return float(value)


def parameters_of(
    function: Callable[..., Any], limits: Mapping[str, Limits]
) -> tuple[dict[str, float | str], dict[str, Allowed]]:
    """Defaults of the keyword-only arguments of `function`, and what each may be.

    `beta` is positive, other numbers are finite, unless `limits` says more.
    """
    arguments = inspect.signature(function).parameters.values()
    defaults = {argument.name: argument.default for argument in arguments if argument.kind is argument.KEYWORD_ONLY}
    unknown = limits.keys() - defaults.keys()
    assert not unknown, f"limits of unknown parameters {unknown}"
    hints = get_type_hints(function)
    words = {name: get_args(hints[name]) for name in defaults if get_origin(hints[name]) is Literal}
    usual = {name: POSITIVE if name == "beta" else FINITE for name in defaults}
    return defaults, usual | dict(limits) | words
