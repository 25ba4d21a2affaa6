"""The other processes of a job: all come, or all end; and when one fails, all others end with its sentence.

Only a command asks for this; a call from Python leaves its process to whoever started it. PyTorch is imported where it
is needed, so that a process with bad arguments can say so to others that wait for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

from iwpo_fast.lifeline import Failure, Lifeline, connection_to, connection_to_any, listener

PORT = 29500
"""At which the processes of a job meet where MASTER_PORT does not say."""

COME = 600.0
"""Seconds in which all processes of a job have to come: machines may differ by minutes in what their imports take."""

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
    """What this process knows of its job while a command runs.

    Attributes:
        place: host and port at which all meet; torchrun listens there itself, else the first process does.
        refusal: why nobody can meet there.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self.place = os.environ["MASTER_ADDR"], int(os.environ.get("MASTER_PORT") or PORT)
        self.has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self.store: Any = None
        self.lifeline: Lifeline | None = None
        self.refusal: OSError | OverflowError | None = None


_job: _Job | None = None


@contextmanager
def told() -> Iterator[None]:
    """Inside, which is a command, the processes of a job tell one another how they end."""
    global _job
    rank, size, port = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    are_numbers = rank.isdecimal() and size.isdecimal() and (port or str(PORT)).isdecimal()
    is_job = are_numbers and int(rank) < int(size) > 1 and int(port or PORT) < 2**16
    if not (is_job and "MASTER_ADDR" in os.environ):
        yield
        return
    _job = _Job(int(rank), int(size))
    if not _job.has_agent:
        _watch_from_the_start(_job)
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
    job.store = _open_store(job, COME)
    job.store.set(f"come/{job.rank}", "")
    missing = list(range(job.size))
    while missing := [rank for rank in missing if not job.store.check([f"come/{rank}"])]:
        _raise_failed(job)
        if time.monotonic() > deadline:
            raise ValueError(
                f"rank {missing[0]} has not come in {COME:.0f} s: look at what it says, and start all again."
            )
        time.sleep(0.1)
    if job.lifeline is None:
        _watch_from_now(job)
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


def _watch_from_the_start(job: _Job) -> None:
    """The first process listens at the meeting point, before it imports anything that takes long."""
    connect = None if job.rank == 0 else partial(connection_to, job.place, COME)
    try:
        at = listener(job.place[1]) if job.rank == 0 else None
        job.lifeline = Lifeline(job.rank, job.size, partial(_end_by, job), listener=at, connect=connect)
    except (OSError, OverflowError) as error:
        job.refusal = error


def _watch_from_now(job: _Job) -> None:
    """The first process listens on a port that the others learn of through torchrun's store."""
    if job.rank == 0:
        at, token = listener(), secrets.token_hex(16)
        names = [job.place[0], socket.getfqdn(), socket.gethostname()]
        found = {"port": at.getsockname()[1], "names": names, "token": token}
        job.store.set("lifeline", json.dumps(found))
        job.lifeline = Lifeline(0, job.size, partial(_end_by, job), listener=at, token=token)
        return
    found = json.loads(job.store.get("lifeline"))
    connection = connection_to_any(found["names"], found["port"])
    on_failure = partial(_end_by, job)
    job.lifeline = Lifeline(job.rank, job.size, on_failure, connect=lambda: connection, token=found["token"])


def _open_store(job: _Job, patience: float) -> Any:
    import torch.distributed as dist

    try:
        if job.refusal is not None:
            raise job.refusal
        hosts = job.rank == 0 and not job.has_agent
        port = 0 if hosts else _port_of_store(job, patience)
        store = dist.TCPStore(job.place[0], port, None, hosts, KEPT, wait_for_workers=False, multi_tenant=True)
    except (OSError, OverflowError, dist.DistNetworkError) as error:
        raise ValueError(
            f"the processes of the job cannot meet at {job.place[0]}:{job.place[1]} "
            f"({' '.join(str(error).split())[:200]}): choose another MASTER_PORT, or let torchrun do it."
        ) from error
    if hosts and job.lifeline is not None:
        job.lifeline.announce(store.port)
    return dist.PrefixStore(f"iwpo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _port_of_store(job: _Job, patience: float) -> int:
    """On which port of the meeting point's machine it is; waits for it, and hears signals meanwhile."""
    if job.has_agent:
        return job.place[1]
    assert job.lifeline is not None
    deadline = time.monotonic() + patience
    while (port := job.lifeline.announced()) is None:
        if time.monotonic() > deadline:
            raise ValueError(
                f"rank 0 has not come to {job.place[0]}:{job.place[1]} in {patience:.0f} s: look at what it says, and "
                "start all again."
            )
        time.sleep(0.1)
    return port


def _raise_failed(job: _Job) -> None:
    if job.store.check(["failed"]):
        raise PeerFailed(Failure(*json.loads(job.store.get("failed"))))


def _tell_those_who_come(job: _Job, failure: Failure) -> None:
    """Leave the failure in torchrun's store."""
    with contextlib.suppress(ValueError):  # nobody is there to be told
        store = job.store or _open_store(job, COME)
        store.compare_set("failed", "", json.dumps(failure))


def _says(failure: Failure, job: _Job) -> bool:
    """Whether this process says that another has failed: the first of those that are left, so that it is one line."""
    return job.rank == (1 if failure.rank == 0 else 0)


def _end_by(job: _Job, failure: Failure) -> NoReturn:
    """End this process, whatever it waits for. What it was writing is aside, and removed by the next call."""
    if _says(failure, job):
        print(f"iwpo: error on rank {job.rank}: {failure.sentence()}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(failure.code)
