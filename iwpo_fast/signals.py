"""Signals that ask a command to end: it finishes the step under way and saves where there is one, else it ends at once.

Only the standard library is imported here, so that a signal finds this in place while everything else is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ASKING = (signal.SIGTERM, signal.SIGUSR1)
"""Sent by a queue, such as Slurm, Kubernetes or a spot machine, some time before it takes the machine away."""

CODE = 143
"""Exit code after one of these, by the convention of shells for SIGTERM; a queue may start the command again."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class Stopped(BaseException):
    """A signal has ended the work. No Exception, so that nobody on the way takes it for a fault that it can mend.

    Attributes:
        code: exit code of the command.
        step: the step that was saved, by all processes of a job; None where there was none.
    """

    def __init__(self, number: int, step: int | None = None) -> None:
        """Say what goes on later: from the checkpoint of `step`, which has been saved, or from what there was."""
        saved = "" if step is None else f" after step {step}, which is saved"
        super().__init__(
            "interrupted; the same command goes on from the last checkpoint."
            if number == signal.SIGINT
            else f"stopped by {signal.Signals(number).name}{saved}; the same command goes on from "
            f"{'what was saved before' if step is None else 'there'}."
        )
        self.code = INTERRUPTED if number == signal.SIGINT else CODE
        self.step = step


class _Asked:
    """What this process has been asked.

    Attributes:
        by: the number of the first signal; 0 for none.
        finishing: whether somebody looks at `by` after every step.
        process: the process whose signals these are; 0 if they are left to Python.
    """

    def __init__(self) -> None:
        self.by = 0
        self.finishing = False
        self.process = 0


_asked = _Asked()


@contextmanager
def handled() -> Iterator[None]:
    """Inside, `ASKING` and Ctrl-C end the work with `Stopped`, at once or, in `finishing_steps`, when that looks.

    Signals are handled by the main thread; elsewhere, and inside another `handled`, this does nothing.
    """
    if _asked.process or threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.by, _asked.finishing, _asked.process = 0, False, os.getpid()
    before = {number: signal.signal(number, _receive) for number in (*ASKING, signal.SIGINT)}
    try:
        yield
    finally:
        _asked.process = 0
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def finishing_steps() -> Iterator[None]:
    """Inside, `ASKING` ends nothing: whoever takes steps looks at `asked` after each. Ctrl-C still ends at once.

    Raises:
        Stopped: a signal has come since the last look.
    """
    _asked.finishing = True
    try:
        yield
    finally:
        _asked.finishing = False
    check()


def asked() -> int:
    """The number of the signal that has asked this process to end; 0 for none."""
    return _asked.by if _asked.process == os.getpid() else 0


def check() -> None:
    """Raise Stopped if a signal has come whose exception got lost, as in the initialisation of an extension."""
    if asked() and not _asked.finishing:
        raise Stopped(_asked.by)


def stopped(error: BaseException) -> Stopped:
    """`error`, if it is Stopped; else what a signal raised that somebody made `error` of on its way."""
    return error if isinstance(error, Stopped) else Stopped(asked())


def leave(code: int) -> NoReturn:
    """End the process; a signal while Python waits for its threads ends it at once, with the same code and no lines."""
    for number in (*ASKING, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(code))
    sys.exit(code)


def _receive(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _asked.process:  # a process that a library forked, and which it may end by SIGTERM
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    _asked.by = _asked.by or number
    if number == signal.SIGINT or not _asked.finishing:
        raise Stopped(number)
