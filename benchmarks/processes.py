"""Processes that do tasks for a benchmark and answer over a pipe.

On a CPU each is forked from a process that has only imported, because a fork breaks the threads of operators. On a GPU
each is a fresh one, because a fork also breaks CUDA, which an import may have touched.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import torch

ABSENT, NO_MEMORY, FAILED = "not available", "out of memory", "failed"
PATIENCE = 30  # seconds for a process to end by itself
GRACE = 15  # seconds that what is under way may last beyond a deadline


class ProcessFailed(Exception):
    """The task raised, or its process was killed; the message says what, `status` what that makes of a contender."""

    def __init__(self, message: str, status: str = FAILED) -> None:
        super().__init__(message)
        self.status = status


class NoTimeLeft(ProcessFailed):
    """The answer did not come before the deadline."""


def status_of(error: Exception) -> tuple[str, str]:
    """What an exception makes of a contender, and a line that says why."""
    if isinstance(error, ProcessFailed):
        return error.status, str(error)
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    status = ABSENT if isinstance(error, ImportError) else NO_MEMORY if out_of_memory else FAILED
    return status, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


class Host:
    """A process that does one task after the other. A task is a function of the pipe and of what it is given.

    Args:
        name: what it is kept under for a next task.
    """

    def __init__(self, device: str, name: str = "") -> None:
        self.name = name
        self._connection, self._process = _start(device)

    def begin(self, task: Callable[..., None], *arguments: Any) -> None:
        self.send((task, arguments))

    def send(self, message: Any) -> None:
        with suppress(ConnectionError):  # of a process that has ended, which `receive` tells
            self._connection.send(message)

    def receive(self, deadline: float = math.inf) -> Any:
        """Raises ProcessFailed."""
        try:
            patience = None if deadline == math.inf else max(0.0, deadline + GRACE - time.monotonic())
            if not self._connection.poll(patience):
                raise NoTimeLeft("no time left")
            answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise ProcessFailed("its process ended, most likely out of memory") from error
        if isinstance(answer, ProcessFailed):
            raise answer
        return answer

    def end(self, patience: float = PATIENCE) -> None:
        self.send(None)
        self._connection.close()
        self._process.join(patience)
        self._process.kill()


def preload(device: str, modules: Iterable[str]) -> None:
    """Have these imported, where they are there, by the process that those for a CPU are forked from."""
    if device == "cpu":
        _context(device).set_forkserver_preload([*modules])


def _start(device: str) -> tuple[Connection, Any]:
    context = _context(device)
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _run(connection: Connection) -> None:
    """Do tasks until there are no more."""
    with suppress(EOFError, ConnectionError):
        while (received := connection.recv()) is not None:
            task, arguments = received
            try:
                task(connection, *arguments)
            except Exception as error:
                status, message = status_of(error)
                connection.send(ProcessFailed(message, status))
            release_memory()


def release_memory() -> None:
    """Leave a GPU to others, as far as one process can."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@cache
def _context(device: str) -> Any:
    return multiprocessing.get_context("forkserver" if device == "cpu" else "spawn")
