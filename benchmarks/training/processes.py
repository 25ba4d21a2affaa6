"""A process of its own for each contender in each case."""

from __future__ import annotations

import importlib
import multiprocessing
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from benchmarks.training.case import Case, Job
from benchmarks.training.gate import Order, RemoteGate, Turn, Values
from benchmarks.training.lengths import equal_pairs
from benchmarks.training.profile import Profile, ProfilingGate
from benchmarks.training.shapes import SMOKE
from iwpo_fast.data.pairs import Pairs

IMPORTS = ("benchmarks.training.contenders.ours", "benchmarks.training.contenders.trl", "torch._dynamo")
WARM_UP_STEPS = 2
PATIENCE = 30  # seconds for a process to end by itself


class ContenderFailed(Exception):
    """Its process raised, or was killed; the message says what."""


@dataclass(frozen=True)
class Failure:
    message: str


class Worker:
    """A contender that trains on a job, some steps at a time; it makes itself ready while others do."""

    def __init__(self, contender: str, job: Job) -> None:
        self._connection, self._process = _start(job.case, _train, contender, job)
        self._is_ready = False

    def turn(self, order: Order) -> Turn:
        """Raises ContenderFailed."""
        if not self._is_ready:
            _receive(self._connection)
            self._is_ready = True
        self._connection.send(order)
        return _receive(self._connection)

    def stop(self) -> None:
        if self._process.is_alive():
            with suppress(ConnectionError):
                self._connection.send(None)
        self._connection.close()
        self._process.join(PATIENCE)
        self._process.kill()


def profile(contender: str, job: Job) -> Profile:
    """Where the time of one step goes. Raises ContenderFailed."""
    return _result(job.case, _profile, contender, job)


def reference_of(case: Case, pairs: Pairs) -> np.ndarray:
    """float32 [P, 2], log-probs of the pairs under the case's model before training. Raises ContenderFailed."""
    return _result(case, _reference, case, pairs)


def matrix_rate(case: Case) -> float:
    """Floating-point operations per second of a bare product in the case's compute type. Raises ContenderFailed."""
    return _result(case, _matrix_rate, case)


def _train(connection: Connection, contender: str, job: Job) -> None:
    _settle(job.case)
    module = _module(contender)
    module.train(small(job.case), CountingGate(WARM_UP_STEPS))
    module.train(job, RemoteGate(connection, torch.device(job.case.device)))


def _profile(connection: Connection, contender: str, job: Job) -> None:
    _settle(job.case)
    gate = ProfilingGate(torch.device(job.case.device))
    _module(contender).train(job, gate)
    connection.send(gate.profile())


def _reference(connection: Connection, case: Case, pairs: Pairs) -> None:
    _settle(case)
    connection.send(_module("ours").reference(case, pairs))


def _matrix_rate(connection: Connection, case: Case) -> None:
    from benchmarks.training.flops import matrix_rate

    _settle(case)
    connection.send(matrix_rate(torch.device(case.device), case.compute_dtype))


class CountingGate:
    """Ends the training after some steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def ready(self, model: nn.Module) -> bool:
        return self._left > 0

    def step_done(self, values: Values) -> bool:
        self._left -= 1
        return self._left > 0


def small(case: Case) -> Job:
    """A job that calls everything once that a process allocates, loads or compiles only once."""
    case = replace(case, model=SMOKE, pairs_per_step=2, micro_pairs=(1,))
    pairs = equal_pairs(2 * (WARM_UP_STEPS + 1), vocab=SMOKE.vocab, length=16)
    return Job(case, pairs, np.zeros((len(pairs), 2), np.float32), micro_pairs=1)


def _settle(case: Case) -> None:
    torch.set_num_threads(case.threads)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")


def _module(contender: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.training.contenders.{contender}")


def _result(case: Case, task: Callable[..., None], *arguments: Any) -> Any:
    connection, process = _start(case, task, *arguments)
    try:
        return _receive(connection)
    finally:
        process.join(PATIENCE)
        process.kill()


def _start(case: Case, task: Callable[..., None], *arguments: Any) -> tuple[Connection, Any]:
    context = _context(case.device)
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, task, arguments), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _run(connection: Connection, task: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    try:
        task(connection, *arguments)
    except Exception as error:
        connection.send(Failure(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"))


def _receive(connection: Connection) -> Any:
    try:
        answer = connection.recv()
    except (EOFError, ConnectionError) as error:
        raise ContenderFailed("its process ended, most likely out of memory") from error
    if isinstance(answer, Failure):
        raise ContenderFailed(answer.message)
    return answer


@cache
def _context(device: str) -> Any:
    """On a CPU, processes forked from one that has imported everything and run nothing, as a fork breaks threads.

    On a GPU fresh ones, as a fork also breaks CUDA, which an import may have touched.
    """
    if device != "cpu":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTS))
    return context
