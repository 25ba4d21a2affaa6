"""How many examples a fuzz of `tests/faults` tries: IWPO_FAULTS=short, the default, or long."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

EFFORTS = ("short", "long")


def tries(*, short: int, long: int) -> Callable[[Any], Any]:
    """The decorator of a fuzz: so many examples, the same ones in every run."""
    effort = os.environ.get("IWPO_FAULTS", EFFORTS[0])
    if effort not in EFFORTS:
        raise ValueError(f"IWPO_FAULTS is {effort}: set it to one of {', '.join(EFFORTS)}.")
    return settings(
        max_examples=long if effort == "long" else short,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
