"""What befalls a process: signals at a drawn moment, no file larger than so much. Called in the process itself."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import util
from pathlib import Path
from typing import Any

from iwpo_fast import peers

EVENTS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
"""Of Python's audit events those that are about files; `os.replace` is a rename there."""


def _at_events(act: Callable[[int], None]) -> None:
    """Call `act` with the number of each event, from 1, just before something is done to a file in this folder."""
    folder, counted = os.getcwd() + os.sep, [0]

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or isinstance(arguments[0], int):
            return
        if os.path.abspath(os.fsdecode(arguments[0])).startswith(folder):
            counted[0] += 1
            act(counted[0])

    sys.addaudithook(look)


def signal_at_event(number: int, which: int = signal.SIGKILL) -> None:
    def act(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), which)

    _at_events(act)


def killed_after(seconds: float) -> None:
    """End this process after so much of the processor's time, in the midst of whatever it does, C or Python.

    SIGPROF, left to its default, ends a process on the spot as SIGKILL does; nothing of it runs any more.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def once_met(sabotage: Callable[[], None]) -> None:
    """Sabotage this process of a job as soon as it has met the others."""
    real = peers.meet

    def meet() -> Any:
        store = real()
        sabotage()
        return store

    peers.meet = meet


def killed_before_meeting() -> None:
    """Killed as it comes to the meeting, once this process of a job and another know one another."""

    def meet() -> Any:
        lifeline = peers._job.lifeline
        while not (lifeline._come.is_set() or len(lifeline._known) > 1):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    peers.meet = meet


def count_into(path: Path) -> None:
    """Write at the end how many events there were and how much time of the processor was used."""
    began, counted = time.process_time(), [0]

    def act(count: int) -> None:
        counted[0] = count

    def write() -> None:
        path.write_text(json.dumps([counted[0], time.process_time() - began]))

    _at_events(act)
    util.Finalize(None, write, exitpriority=100)  # forked processes leave without `atexit`


def small_files(size: int) -> None:
    """A write beyond `size` bytes into any file fails, as on a disk that is full; for where none can be mounted."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
