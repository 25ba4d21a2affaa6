"""The tasks of contenders, in processes of their own: fresh ones on a CPU, one for each contender on a GPU."""

from __future__ import annotations

import importlib
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from benchmarks.harness import OK, Record
from benchmarks.memory import MIB
from benchmarks.processes import Host, NoTimeLeft, ProcessFailed, preload
from benchmarks.training.case import Case, Job
from benchmarks.training.flops import matrix_rate as measured_matrix_rate
from benchmarks.training.gate import Order, RemoteGate, Turn, Values
from benchmarks.training.pairs import equal_pairs
from benchmarks.training.profile import Profile, ProfilingGate
from benchmarks.training.shapes import SMOKE
from iwpo_fast.data.pairs import Pairs

CONTENDERS = "benchmarks.training.contenders"
OURS = "ours"
WARM_UP_STEPS = 2

_idle: dict[str, list[Host]] = defaultdict(list)


def make_ready(case: Case, contenders: Iterable[str]) -> None:
    """Have these contenders imported: once for all processes, or, and warmed up, in each of them at the same time."""
    if not is_used_again(case.device):
        preload(case.device, [*(f"{CONTENDERS}.{contender}" for contender in contenders), "torch._dynamo"])
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
    """End the processes that wait for a next task."""
    while _idle:
        for host in _idle.popitem()[1]:
            host.end()


def _host(device: str, contender: str) -> Host:
    return _idle[contender].pop() if _idle[contender] else Host(device, contender)


def _release(device: str, host: Host) -> None:
    """After a task that has done all it should."""
    if is_used_again(device):
        _idle[host.name].append(host)
    else:
        host.end()


class Lane:
    """A record, and the training that fills it: one for all turns, or a new one for each where memory is scarce.

    A training makes itself ready while others do.
    """

    def __init__(self, record: Record, job: Job, apart: bool, deadline: float = math.inf) -> None:
        self.record, self.job, self.apart, self.deadline = record, job, apart, deadline
        self._host: Host | None = None if apart else self._begin()

    def _begin(self) -> Host:
        host = _host(self.job.case.device, self.record.library)
        host.begin(_train, self.record.library, self.job)
        self._is_ready = self._is_well = False
        return host

    def turn(self, order: Order) -> Turn | None:
        """None where it failed, now or before. Raises NoTimeLeft."""
        if self.record.status != OK:
            return None
        self._host = self._host or self._begin()
        try:
            turn = self._ask(self._host, order)
        except NoTimeLeft:
            self.stop()
            raise
        except ProcessFailed as error:
            self.record.fail(error)
            self.stop()
            return None
        self.record.extra_mib = max(self.record.extra_mib or 0.0, turn.extra / MIB)
        self.record.facts["state_mib"] = 3 * turn.trainable / MIB  # gradients and both moments of AdamW
        if self.apart:
            self.stop()
        return turn

    def _ask(self, host: Host, order: Order) -> Turn:
        if not self._is_ready:
            host.receive(self.deadline)
            self._is_ready = True
        self._is_well = False
        host.send(order)
        turn = host.receive(self.deadline)
        self._is_well = True
        return turn

    def stop(self) -> None:
        """End the training; a process that failed, or that may still say something, ends with it."""
        if self._host is None:
            return
        self._host.send(None)
        if self._is_well:
            _release(self.job.case.device, self._host)
        else:
            self._host.end(patience=1)
        self._host = None


def profile(contender: str, job: Job, deadline: float = math.inf) -> Profile:
    """Where the time of one step goes. Raises ProcessFailed."""
    return _result(job.case, contender, deadline, _profile, contender, job)


def reference_of(case: Case, pairs: Pairs, deadline: float = math.inf) -> np.ndarray:
    """float32 [P, 2], log-probs of the pairs under the case's model before training. Raises ProcessFailed."""
    return _result(case, OURS, deadline, _reference, case, pairs)


def matrix_rate(case: Case) -> float:
    """Floating-point operations per second of a bare product in the case's compute type. Raises ProcessFailed."""
    return _result(case, OURS, math.inf, measured_matrix_rate, torch.device(case.device), case.compute_dtype)


def _result(case: Case, contender: str, deadline: float, work: Callable[..., Any], *arguments: Any) -> Any:
    host = _host(case.device, contender)
    host.begin(_answer, case, work, *arguments)
    try:
        result = host.receive(deadline)
    except ProcessFailed:
        host.end(patience=1)
        raise
    _release(case.device, host)
    return result


def _prepare(connection: Connection, contender: str, case: Case) -> None:
    with suppress(ImportError):  # which training with it will meet again
        _settle(case)
        _warm_up(contender, case.device, case.lora, case.threads)


def _train(connection: Connection, contender: str, job: Job) -> None:
    _settle(job.case)
    _warm_up(contender, job.case.device, job.case.lora, job.case.threads)
    _module(contender).train(job, RemoteGate(connection, torch.device(job.case.device)))


@cache
def _warm_up(contender: str, device: str, lora: bool, threads: int) -> None:
    """Call everything once that a process allocates, loads or compiles only once."""
    case = Case("warm-up", SMOKE, "equal lengths", 2, (1,), lora=lora, device=device, threads=threads)
    pairs = equal_pairs(2 * (WARM_UP_STEPS + 1), vocab=SMOKE.vocab, length=16)
    job = Job(case, pairs, np.zeros((len(pairs), 2), np.float32), micro_pairs=1)
    _module(contender).train(job, CountingGate(WARM_UP_STEPS))


def _answer(connection: Connection, case: Case, work: Callable[..., Any], *arguments: Any) -> None:
    _settle(case)
    connection.send(work(*arguments))


def _profile(contender: str, job: Job) -> Profile:
    gate = ProfilingGate(torch.device(job.case.device))
    _module(contender).train(job, gate)
    return gate.profile()


def _reference(case: Case, pairs: Pairs) -> np.ndarray:
    return _module(OURS).reference(case, pairs)


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
