"""Limits of time and memory for the rendering of a chat template, which is a program of others.

A template may loop for ever, or write without end. Its loops are Python code, so a timer that runs while this process
computes can look at them between two steps and end them. A single step, such as a string times a number, is not ended.
"""

from __future__ import annotations

import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS = 10.0
"""Of the processor's time for one conversation."""
BYTES = 2**30
"""By which the memory of the process may grow meanwhile."""
LOOK_EVERY = 0.1
"""Seconds of the processor's time between two looks."""
KILOBYTE = 1 if sys.platform == "darwin" else 1024  # in which the largest memory of a process is counted


class Unbounded(BaseException):
    """A template goes beyond its limits. No `except Exception` between the loop and the call may hold it up."""


class TooMuch(ValueError):
    """The same as a sentence."""


@contextmanager
def bounded() -> Iterator[None]:
    """Render in the body. Timers are for the main thread alone; in others there are no limits.

    Raises:
        TooMuch: the body took more time or memory than the limits.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    looks, before = 0, _largest_memory()

    def look(_: int, __: FrameType | None) -> None:
        nonlocal looks
        looks += 1
        if looks * LOOK_EVERY >= SECONDS or _largest_memory() - before > BYTES:
            raise Unbounded

    earlier = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, LOOK_EVERY, LOOK_EVERY)
    try:
        yield
    except Unbounded:
        raise TooMuch(f"The chat template takes {limits()} for a conversation: give another.") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, earlier)


def limits() -> str:
    """What a conversation may not take, in words."""
    return f"more than {SECONDS:g} s or {BYTES / 2**30:g} GiB"


def _largest_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTE
