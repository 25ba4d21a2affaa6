"""Who hears of a process that fails, and what is not taken for a failure."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import time
from collections.abc import Iterator

import pytest

from iwpo_fast.lifeline import DIED, Failure, Lifeline

QUIET = 0.5
"""Seconds in which nothing may happen."""


class Job:
    """Lifelines of several ranks in this process, and what each has heard."""

    def __init__(self, size: int) -> None:
        self.heard = [queue.Queue[Failure]() for _ in range(size)]
        places: list[str] = []
        self.ranks = [Lifeline(rank, places.append, lambda: places[0], self.heard[rank].put) for rank in range(size)]
        self.place = json.loads(places[0])
        self.wait_until_all_are_known(size)

    def wait_until_all_are_known(self, size: int) -> None:
        while sorted(self.ranks[0]._rank_of.values()) != list(range(1, size)):
            time.sleep(0.01)

    def cut(self, rank: int) -> None:
        """As the kernel does where a process dies, which says nothing more of others either."""
        self.ranks[rank]._over = True
        for connection in list(self.ranks[rank]._rank_of):
            with contextlib.suppress(OSError):  # the other side has hung up already
                connection.shutdown(socket.SHUT_RDWR)

    def hears(self, rank: int) -> Failure:
        return self.heard[rank].get(timeout=30)


@pytest.fixture(autouse=True)
def meeting_point(monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    yield


@pytest.mark.slow
def test_a_failure_of_any_process_is_heard_by_all_others_once() -> None:
    job = Job(4)
    failure = Failure(2, "the disk is full.", 2)
    job.ranks[2].end(failure)
    assert [job.hears(rank) for rank in (0, 1, 3)] == [failure] * 3
    job.ranks[3].end(Failure(3, "a consequence."))
    time.sleep(QUIET)
    assert all(heard.empty() for heard in job.heard)


def test_a_failure_of_the_first_process_is_heard_by_all_others() -> None:
    job = Job(3)
    job.ranks[0].end(Failure(0, "no.", 143))
    assert [job.hears(rank) for rank in (1, 2)] == [Failure(0, "no.", 143)] * 2


@pytest.mark.parametrize("dead", [0, 1])
def test_a_connection_that_breaks_is_a_death(dead) -> None:
    job = Job(3)
    job.cut(dead)
    assert job.hears(2) == Failure(dead, DIED)


@pytest.mark.slow
def test_processes_that_end_as_they_should_end_nobody() -> None:
    job = Job(3)
    for rank in (1, 0, 2):
        job.ranks[rank].end(None)
        job.cut(rank)
    time.sleep(QUIET)
    assert all(heard.empty() for heard in job.heard)


@pytest.mark.slow
def test_only_processes_that_know_the_token_are_heard() -> None:
    job = Job(2)
    for said in (b"", b"hello\n", b'{"rank": 1, "token": "x"}\n', b'{"rank": 1, "why": "no", "code": 0}\n', b"[]\n"):
        with socket.create_connection(("127.0.0.1", job.place["port"])) as stranger:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b""
    time.sleep(QUIET)
    assert all(heard.empty() for heard in job.heard)
    job.ranks[1].end(Failure(1, "still heard."))
    assert job.hears(0) == Failure(1, "still heard.")
