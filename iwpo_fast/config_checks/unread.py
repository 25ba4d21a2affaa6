"""Settings that nothing reads."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any


def refuse_unread(config: Any, group: str, names: Iterable[str], reason: str, remedy: str) -> None:
    """Raise ValueError for the first of these settings that is not the default, though nothing reads it."""
    for name in names:
        value = attrgetter(name)(config)
        if value != attrgetter(name)(type(config)()):
            raise ValueError(f"{group}.{name} is {value} and {reason}: leave {group}.{name} out, or {remedy}.")
