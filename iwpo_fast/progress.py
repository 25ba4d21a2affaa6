"""How far a stage is: a bar on a terminal, and without one a line every half minute."""

from __future__ import annotations

import sys
import time
from typing import Self, TypeAlias

from tqdm.auto import tqdm

EVERY = 30.0
"""Seconds between two lines."""


class ProgressLines:
    """What a log shows of a stage: `tqdm`'s calls, answered by whole lines on standard error.

    Args:
        desc: name of the stage.
        total: units that there are; initial: those that were done before.
        unit: one of them, in the singular.
    """

    def __init__(self, desc: str, total: int, unit: str, *, initial: int = 0) -> None:
        self.desc, self.total, self.unit = desc, total, unit
        self.n = self._initial = initial
        self._begin = self._said = time.monotonic()

    def update(self, n: int = 1) -> None:
        """Count n more, and say so if it is time to."""
        self.n += n
        now = time.monotonic()
        if now - self._said >= EVERY and self.n < self.total:
            self._said = now
            print(self.line(now - self._begin), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """Stage, done, total and the time that is left if the rest goes as fast as what was done in these seconds."""
        left = seconds * (self.total - self.n) / max(self.n - self._initial, 1)
        return f"{self.desc}: {self.n:,} of {self.total:,} {self.unit}s, about {span(left)} left"

    def set_postfix_str(self, text: str) -> None:
        """Only a bar has room for it."""

    def write(self, line: str) -> None:
        print(line, flush=True)

    def close(self) -> None:
        """Nothing is left to be drawn."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


Progress: TypeAlias = tqdm | ProgressLines


def progress(desc: str, total: int, unit: str, *, initial: int = 0, shown: bool = True) -> Progress:
    """The bar or the lines of a stage of `total` units; nothing unless `shown`."""
    if shown and not sys.stderr.isatty():
        return ProgressLines(desc, total, unit, initial=initial)
    return tqdm(total=total, initial=initial, desc=desc, unit=unit, disable=not shown)


def span(seconds: float) -> str:
    """A time in words, to two digits or so: 45 s, 7 min, 2 h 05 min, 3 days."""
    minutes, hours = round(seconds / 60), seconds / 3600
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{hours / 24:.0f} days"
