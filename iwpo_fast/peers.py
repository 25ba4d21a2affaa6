"""The other processes of a job: all come, or all end; and when one fails, all others end with its sentence.

Only a command asks for this; a call from Python leaves its process to whoever started it. PyTorch is imported where it
is needed, so that a process with bad arguments can say so to others that wait for it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

from iwpo_fast.lifeline import Failure, Lifeline

COME = 600.0
"""Seconds in which all processes of a job have to come: machines may differ by minutes in what their imports take."""

LINGER = 20.0
"""Seconds that a first process which has failed stays for others to hear of it."""

HEAR = 10.0
"""Seconds in which the reason for a broken connection is heard of, before it counts as a failure of its own."""

KEPT = timedelta(minutes=30)
"""Time limit of what PyTorch does through the store."""


class Agreed(ValueError):
    """An error that all processes raise with the same sentence, so that the first alone says it."""


class PeerFailed(ValueError):
    """Another process has failed before the job began."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.sentence())
        self.failure = failure


class _Job:
    """What this process knows of its job while a command runs."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self.store: Any = None
        self.lifeline: Lifeline | None = None


_job: _Job | None = None


@contextmanager
def told() -> Iterator[None]:
    """Inside, which is a command, the processes of a job tell one another how they end."""
    global _job
    rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    if not (rank.isdecimal() and size.isdecimal() and int(size) > 1 and "MASTER_ADDR" in os.environ):
        yield
        return
    _job = _Job(int(rank), int(size))
    try:
        yield
    finally:
        _job = None


def meet() -> Any:
    """Wait until all processes of the job have come; the store by which they found one another. None in no command.

    Raises:
        PeerFailed: another process has failed.
        ValueError: one has not come.
    """
    if _job is None:
        return None
    job, deadline = _job, time.monotonic() + COME
    job.store = _open_store(job.rank, COME)
    job.store.set(f"come/{job.rank}", "")
    missing = list(range(job.size))
    while missing := [rank for rank in missing if not job.store.check([f"come/{rank}"])]:
        _raise_failed(job)
        if time.monotonic() > deadline:
            raise ValueError(
                f"rank {missing[0]} has not come in {COME:.0f} s: look at what it says, and start all again."
            )
        time.sleep(0.1)
    job.lifeline = Lifeline(
        job.rank,
        publish=lambda place: job.store.set("lifeline", place),
        find=lambda: job.store.get("lifeline").decode(),
        on_failure=lambda failure: _end_by(failure, job),
    )
    return job.store


def end(why: str | None, code: int = 2) -> None:
    """Tell the others that this process ends: with an error in this sentence, or with None as it should."""
    job = _job
    if job is None:
        return
    failure = None if why is None else Failure(job.rank, why, code)
    if job.lifeline is not None:
        job.lifeline.end(failure)
    elif failure is not None:
        _tell_those_who_come(job, failure)


def hear() -> None:
    """Wait for the reason of a broken connection: if another process has failed, this one ends meanwhile."""
    if _job is not None and _job.lifeline is not None:
        time.sleep(HEAR)


def speaks(error: BaseException) -> bool:
    """Whether this process says an error: where all have it, the first alone, and the others stay until it has."""
    if _job is None or not isinstance(error, (Agreed, PeerFailed)):
        return True
    if isinstance(error, PeerFailed):
        return _says(error.failure, _job)
    if _job.lifeline is not None:
        _job.lifeline.wait_for_first()
    return _job.rank == 0


def _open_store(rank: int, patience: float) -> Any:
    import torch.distributed as dist

    place = os.environ["MASTER_ADDR"], int(os.environ.get("MASTER_PORT", "29500"))
    hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not hosts:
        _wait_for(place, patience)
    try:
        store = dist.TCPStore(*place, None, hosts, KEPT, wait_for_workers=False, multi_tenant=True)
    except dist.DistNetworkError as error:
        raise ValueError(
            f"the processes of the job cannot meet at {place[0]}:{place[1]} ({' '.join(str(error).split())[:200]}): "
            "choose another MASTER_PORT, or let torchrun do it."
        ) from error
    return dist.PrefixStore(f"iwpo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _wait_for(place: tuple[str, int], patience: float) -> None:
    """Wait until somebody listens there; in short tries, between which signals are heard."""
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection(place, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"rank 0 has not come to {place[0]}:{place[1]} in {patience:.0f} s ({error.strerror or error}): "
                    "look at what it says, and start all again."
                ) from error
        time.sleep(0.2)


def _raise_failed(job: _Job) -> None:
    if job.store.check(["failed"]):
        failure = Failure(*json.loads(job.store.get("failed")))
        job.store.set(f"left/{job.rank}", "")
        raise PeerFailed(failure)


def _tell_those_who_come(job: _Job, failure: Failure) -> None:
    """Leave the failure in the store, and, where this process keeps it, stay until the others have read it."""
    try:
        store = job.store or _open_store(job.rank, 1.0 if job.rank else LINGER)
    except ValueError:  # nobody is there to be told
        return
    store.compare_set("failed", "", json.dumps(failure))
    store.set(f"left/{job.rank}", "")
    deadline = time.monotonic() + LINGER
    others = [f"left/{rank}" for rank in range(job.size)] if job.rank == 0 else []
    while others and not store.check(others) and time.monotonic() < deadline:
        time.sleep(0.1)


def _says(failure: Failure, job: _Job) -> bool:
    """Whether this process says that another has failed: the first of those that are left, so that it is one line."""
    return job.rank == (1 if failure.rank == 0 else 0)


def _end_by(failure: Failure, job: _Job) -> NoReturn:
    """End this process, whatever it waits for. What it was writing is aside, and removed by the next call."""
    if _says(failure, job):
        print(f"iwpo: error on rank {job.rank}: {failure.sentence()}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(failure.code)
