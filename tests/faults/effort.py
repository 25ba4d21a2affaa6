"""How many examples a fuzz of `tests/faults` tries, IWPO_FAULTS=short, the default, or long; and what each came to."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

EFFORTS = ("short", "long")
TALLY = "IWPO_FAULTS_TALLY"
"""Names a file that gets one line for each example that held, for the table of the suite."""

_refusals: list[BaseException | str] = []


def tries(*, short: int, long: int) -> Callable[[Any], Any]:
    """The decorator of a fuzz: so many examples, the same ones in every run."""
    effort = os.environ.get("IWPO_FAULTS", EFFORTS[0])
    if effort not in EFFORTS:
        raise ValueError(f"IWPO_FAULTS is {effort}: set it to one of {', '.join(EFFORTS)}.")
    chosen = settings(
        max_examples=long if effort == "long" else short,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

    def decorate(test: Any) -> Any:
        test.hypothesis.inner_test = _told(test.hypothesis.inner_test)
        return chosen(test)

    return decorate


def refused_with(refusal: BaseException | str) -> None:
    """Note that this example was refused in a sentence."""
    _refusals.append(refusal)


def _told(test: Callable[..., None]) -> Callable[..., None]:
    """The test of one example, which adds its verdict to the tally."""

    @functools.wraps(test)
    def tell(*arguments: Any, **keywords: Any) -> None:
        _refusals.clear()
        test(*arguments, **keywords)
        if name := os.environ.get(TALLY):
            _add(name, "sentence" if _refusals else "same bytes")

    return tell


def _add(name: str, verdict: str) -> None:
    """Add one line; processes may do so at once."""
    handle = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, f"{verdict}\n".encode())
    finally:
        os.close(handle)
