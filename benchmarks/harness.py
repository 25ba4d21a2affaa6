"""What every benchmark shares: how it is run, what became of each contender, rounds that take turns, medians."""

from __future__ import annotations

import math
import random
import statistics
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from benchmarks.processes import status_of

OK, WRONG = "ok", "wrong"  # the others are in `processes.status_of`
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        libraries: whose variants or trainers take part, ours among them.
        rounds: samples of each.
        threads: of PyTorch on a CPU.
        labels: of the variants of an operator to run beside their floors; all of them where it is None. A key, which is
            a label with its mode in brackets, chooses one mode.
        measures_memory: whether to measure the peaks of operators.
        timed: training steps of a sample.
        profiles: whether to say where the time of a training step goes.
        deadline: by `time.monotonic`. After it no shape, case, profile or further round is started.
    """

    device: torch.device
    libraries: Collection[str]
    rounds: int
    threads: int = 1
    labels: Collection[str] | None = None
    measures_memory: bool = True
    timed: int = 1
    profiles: bool = True
    deadline: float = math.inf

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.deadline


@dataclass
class Record:
    """A contender, and what became of it.

    Attributes:
        label: as tables show it.
        library: "ours", "torch", "floor", or the name of a peer.
        mode: only records of one mode have the same to do.
        facts: what else the results say of it.
        status: "ok", "wrong" (and therefore not timed), "not available", "out of memory" or "failed".
        message: why, where it is not "ok".
        errors: differences from what is right.
        times: of a call in milliseconds or of a training step in seconds, one a round; sample i of all records that are
            measured together is from the same round.
        extra_mib: memory at the peak beyond the inputs, or beyond model and data; None where it was not measured.
    """

    label: str
    library: str
    mode: str
    facts: dict[str, Any] = field(default_factory=dict)
    status: str = OK
    message: str = ""
    errors: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    extra_mib: float | None = None

    @property
    def key(self) -> str:
        return f"{self.label} [{self.mode}]"

    def fail(self, error: Exception) -> None:
        """Take note of why it cannot go on."""
        self.status, self.message = status_of(error)


def right(records: Iterable[Record]) -> list[Record]:
    """Those with which nothing is wrong so far."""
    return [record for record in records if record.status == OK]


@contextmanager
def guard(records: Iterable[Record]) -> Iterator[None]:
    """Turn an exception into the status of the records that it concerns; their benchmark goes on without them."""
    try:
        yield
    except Exception as error:
        for record in records:
            record.fail(error)


def in_turn(
    contenders: Sequence[T], rounds: int, fewest: int, deadline: float = math.inf, seed: int = 0
) -> Iterator[list[T]]:
    """The contenders of each round: all of them once, in a new random order.

    Args:
        rounds: how many; fewer, but at least `fewest`, where the deadline passes.
    """
    order, shuffle = list(contenders), random.Random(seed).shuffle
    for done in range(rounds):
        if done >= fewest and time.monotonic() > deadline:
            return
        shuffle(order)
        yield order


def ratio(record: Record | None, other: Record | None) -> dict[str, float] | None:
    """Median and quartiles of time over time, round by round, or None where one was not timed."""
    if record is None or other is None or not record.times or not other.times:
        return None
    return quartiles([a / b for a, b in zip(record.times, other.times, strict=True)])


def quartiles(samples: Sequence[float]) -> dict[str, float] | None:
    if not samples:
        return None
    low, _, high = statistics.quantiles(samples, method="inclusive") if len(samples) > 1 else [*samples] * 3
    return {"median": statistics.median(samples), "low": low, "high": high}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
