"""The processes in which contenders train: of their own on a CPU, one for each contender on a GPU."""

from __future__ import annotations

import gc
import importlib
import math
import multiprocessing
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
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

CONTENDERS = "benchmarks.training.contenders"
OURS = "ours"
WARM_UP_STEPS = 2
PATIENCE = 30  # seconds for a process to end by itself
GRACE = 15  # seconds that what is under way may last beyond a deadline


class ContenderFailed(Exception):
    """Its process raised, or was killed; the message says what."""


class NoTimeLeft(ContenderFailed):
    """Its answer did not come before the deadline."""


@dataclass(frozen=True)
class Failure:
    message: str


class Host:
    """A process that does one task after the other, for one contender."""

    def __init__(self, device: str, contender: str) -> None:
        self.contender = contender
        self._connection, self._process = _start(device)

    def begin(self, task: Callable[..., None], *arguments: Any) -> None:
        self.send((task, arguments))

    def send(self, message: Any) -> None:
        with suppress(ConnectionError):  # of a process that has ended, which `receive` tells
            self._connection.send(message)

    def receive(self, deadline: float = math.inf) -> Any:
        """Raises ContenderFailed."""
        try:
            patience = None if deadline == math.inf else max(0.0, deadline + GRACE - time.monotonic())
            if not self._connection.poll(patience):
                raise NoTimeLeft("no time left")
            answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise ContenderFailed("its process ended, most likely out of memory") from error
        if isinstance(answer, Failure):
            raise ContenderFailed(answer.message)
        return answer

    def end(self, patience: float = PATIENCE) -> None:
        self.send(None)
        self._connection.close()
        self._process.join(patience)
        self._process.kill()


_idle: dict[str, list[Host]] = defaultdict(list)


def make_ready(case: Case, contenders: Iterable[str]) -> None:
    """Has these contenders imported: once for all processes, or, and warmed up, in each of them at the same time."""
    if not is_used_again(case.device):
        modules = [f"{CONTENDERS}.{contender}" for contender in contenders]
        _context(case.device).set_forkserver_preload([*modules, "torch._dynamo"])
        return
    for contender in contenders:
        if not _idle[contender]:
            host = Host(case.device, contender)
            host.begin(_prepare, contender, case)
            _idle[contender].append(host)


def is_used_again(device: str) -> bool:
    """Whether a process does a next task: on a GPU. A CPU's peak of resident memory needs a fresh one."""
    return device != "cpu"


def end_idle() -> None:
    """The processes that wait for a next task."""
    while _idle:
        for host in _idle.popitem()[1]:
            host.end()


def _host(device: str, contender: str) -> Host:
    return _idle[contender].pop() if _idle[contender] else Host(device, contender)


def _release(device: str, host: Host) -> None:
    """After a task that has done all it should."""
    if is_used_again(device):
        _idle[host.contender].append(host)
    else:
        host.end()


class Worker:
    """A contender that trains on a job, some steps at a time; it makes itself ready while others do."""

    def __init__(self, contender: str, job: Job, deadline: float = math.inf) -> None:
        self._device, self._deadline = job.case.device, deadline
        self._host = _host(self._device, contender)
        self._host.begin(_train, contender, job)
        self._is_ready = self._is_well = False

    def turn(self, order: Order) -> Turn:
        """Raises ContenderFailed."""
        if not self._is_ready:
            self._host.receive(self._deadline)
            self._is_ready = True
        self._is_well = False
        self._host.send(order)
        turn = self._host.receive(self._deadline)
        self._is_well = True
        return turn

    def stop(self) -> None:
        """Ends the training; a process that failed, or that may still say something, ends with it."""
        self._host.send(None)
        if self._is_well:
            _release(self._device, self._host)
        else:
            self._host.end(patience=1)


def profile(contender: str, job: Job, deadline: float = math.inf) -> Profile:
    """Where the time of one step goes. Raises ContenderFailed."""
    return _result(job.case, contender, deadline, _profile, contender, job)


def reference_of(case: Case, pairs: Pairs, deadline: float = math.inf) -> np.ndarray:
    """float32 [P, 2], log-probs of the pairs under the case's model before training. Raises ContenderFailed."""
    return _result(case, OURS, deadline, _reference, case, pairs)


def matrix_rate(case: Case) -> float:
    """Floating-point operations per second of a bare product in the case's compute type. Raises ContenderFailed."""
    return _result(case, OURS, math.inf, _matrix_rate, case)


def _prepare(connection: Connection, contender: str, case: Case) -> None:
    with suppress(ImportError):  # whoever wants to train with it will meet it again
        _settle(case)
        _warm_up(contender, case.device, case.lora, case.threads)


def _train(connection: Connection, contender: str, job: Job) -> None:
    _settle(job.case)
    _warm_up(contender, job.case.device, job.case.lora, job.case.threads)
    _module(contender).train(job, RemoteGate(connection, torch.device(job.case.device)))


@cache
def _warm_up(contender: str, device: str, lora: bool, threads: int) -> None:
    """Calls everything once that a process allocates, loads or compiles only once."""
    case = Case("warm-up", SMOKE, "equal lengths", 2, (1,), lora=lora, device=device, threads=threads)
    pairs = equal_pairs(2 * (WARM_UP_STEPS + 1), vocab=SMOKE.vocab, length=16)
    job = Job(case, pairs, np.zeros((len(pairs), 2), np.float32), micro_pairs=1)
    _module(contender).train(job, CountingGate(WARM_UP_STEPS))


def _profile(connection: Connection, contender: str, job: Job) -> None:
    _settle(job.case)
    gate = ProfilingGate(torch.device(job.case.device))
    _module(contender).train(job, gate)
    connection.send(gate.profile())


def _reference(connection: Connection, case: Case, pairs: Pairs) -> None:
    _settle(case)
    connection.send(_module(OURS).reference(case, pairs))


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


def _settle(case: Case) -> None:
    torch.set_num_threads(case.threads)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")


def _module(contender: str) -> ModuleType:
    return importlib.import_module(f"{CONTENDERS}.{contender}")


def _result(case: Case, contender: str, deadline: float, task: Callable[..., None], *arguments: Any) -> Any:
    host = _host(case.device, contender)
    host.begin(task, *arguments)
    try:
        result = host.receive(deadline)
    except ContenderFailed:
        host.end(patience=1)
        raise
    _release(case.device, host)
    return result


def _start(device: str) -> tuple[Connection, Any]:
    context = _context(device)
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _run(connection: Connection) -> None:
    """Does tasks until there are no more."""
    with suppress(EOFError, ConnectionError):
        while (received := connection.recv()) is not None:
            task, arguments = received
            try:
                task(connection, *arguments)
            except Exception as error:
                connection.send(Failure(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"))
            _forget()


def _forget() -> None:
    """Leaves a GPU to others, as far as one process can."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@cache
def _context(device: str) -> Any:
    """On a CPU, processes forked from one that has only imported, as a fork breaks threads.

    On a GPU fresh ones, as a fork also breaks CUDA, which an import may have touched.
    """
    return multiprocessing.get_context("forkserver" if device == "cpu" else "spawn")
