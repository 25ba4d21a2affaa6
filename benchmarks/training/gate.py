"""Where a training loop stops between steps, until it is asked for more of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

import torch
from torch import nn

from benchmarks.harness import synchronise
from benchmarks.memory import PeakMemory

CHECKED_STEPS = 3
CHECKED = ("logps/chosen", "logps/rejected", "rewards/margins")

Values = Callable[[], dict[str, float]]
Order = tuple[int, int]  # steps to take: some to warm up, then those that are timed


class Gate(Protocol):
    """What a contender calls around its steps."""

    def ready(self, model: nn.Module) -> bool:
        """Before the first step, with the model in place and no optimiser yet; False if there is nothing to do."""

    def step_done(self, values: Values) -> bool:
        """After each optimiser step, which `values` describes under the names in `CHECKED`; False ends the training."""


@dataclass(frozen=True)
class Turn:
    """What came of an order.

    Attributes:
        seconds: of the timed steps together.
        cpu_seconds: of all threads of the process, which says how busy the machine was with others.
        extra: bytes at the peak since training began, beyond model and data.
        trainable: bytes of the trainable parameters.
        checked: values of the first `CHECKED_STEPS` steps.
    """

    seconds: float
    cpu_seconds: float
    extra: int
    trainable: int
    checked: list[dict[str, float]]


class RemoteGate:
    """Takes orders from a connection, and answers each with a turn."""

    def __init__(self, connection: Connection, device: torch.device) -> None:
        self._connection, self._device = connection, device
        self._checked: list[dict[str, float]] = []
        self._steps = 0

    def ready(self, model: nn.Module) -> bool:
        parameters = {id(p): p for p in model.parameters() if p.requires_grad}.values()
        self._trainable = sum(p.numel() * p.element_size() for p in parameters)
        self._memory = PeakMemory(self._device)
        self._connection.send("ready")
        return self._receive()

    def step_done(self, values: Values) -> bool:
        if self._steps < CHECKED_STEPS:
            described = values()
            self._checked.append({name: described[name] for name in CHECKED})
        self._steps += 1
        self._left -= 1
        if self._left == self._timed:
            self._start_clock()
        if self._left:
            return True
        synchronise(self._device)
        seconds, cpu_seconds = time.perf_counter() - self._begin, time.process_time() - self._begin_cpu
        self._connection.send(Turn(seconds, cpu_seconds, self._memory.extra(), self._trainable, self._checked))
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # other contenders share the GPU
        return self._receive()

    def _receive(self) -> bool:
        order = self._connection.recv()
        if order is None:
            return False
        untimed, self._timed = order
        self._left = untimed + self._timed
        self._start_clock()
        return True

    def _start_clock(self) -> None:
        synchronise(self._device)
        self._begin, self._begin_cpu = time.perf_counter(), time.process_time()
