"""What a refusal must be: one sentence of the library that says what to do, in time."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from effort import refused_with

import iwpo_fast

OURS = str(Path(iwpo_fast.__file__).parent)
SENTENCE = re.compile(r"^\S[^\n]*: \S[^\n]*\.$")
PATIENCE = 60
"""Seconds until a call counts as one that does not end."""


def was_raised_in(folder: str, error: BaseException) -> bool:
    """Whether a file of the folder raised the error itself, and did not let it through."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_code.co_filename.startswith(folder)


def is_sentence(error: BaseException) -> bool:
    """Whether the library itself raised it, as a ValueError of one line that goes on to say what to do."""
    here = was_raised_in(OURS, error)
    kind = type(error)  # of Python or of the library: a UnicodeError or JSONDecodeError came through by accident
    is_plain = kind is ValueError or (isinstance(error, ValueError) and kind.__module__.startswith("iwpo_fast"))
    is_one = here and is_plain and bool(SENTENCE.match(str(error)))
    if is_one:
        refused_with(error)
    return is_one


class Hang(BaseException):
    """No end after `PATIENCE`."""


@contextmanager
def in_time() -> Iterator[None]:
    def ring(_: int, __: FrameType | None) -> None:
        raise Hang

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)
