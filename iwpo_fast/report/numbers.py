"""Numbers as the page writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

NBSP = "\u00a0"


def percent(share: float, digits: int = 1) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f}{NBSP}%"


def interval(low: float, high: float) -> str:
    """The ends of an interval of shares."""
    return "–" if math.isnan(low) else f"{100 * low:.1f} to {percent(high)}"


def points(difference: Sequence[float]) -> str:
    """A difference of two shares and its 95 % interval, in points of a hundred."""
    mean, low, high = (100 * value for value in difference)
    return _typeset(f"{mean:+z.1f} points (95{NBSP}% interval {low:+.1f} to {high:+.1f})")


def points_of(difference: Sequence[float]) -> str:
    """The same for a table."""
    mean, low, high = (100 * value for value in difference)
    return _typeset(f"{mean:+z.1f} ({low:+.1f} to {high:+.1f})")


def decimal(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    return "–" if not math.isfinite(value) else _typeset(f"{value:+z.{digits}f}")


def _typeset(number: str) -> str:
    return number.replace("-", "−")


def count(number: float) -> str:
    return f"{int(number):,}"
