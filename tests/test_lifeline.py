"""Who hears of a process that fails, and what is not taken for a failure."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from functools import partial

import pytest

from iwpo_fast import lifeline
from iwpo_fast.lifeline import DIED, Failure, Lifeline, connection_to, listener

QUIET = 0.5
"""Seconds in which nothing may happen."""


class Job:
    """Lifelines of several ranks in this process, and what each has heard."""

    def __init__(self, size: int, absent: tuple[int, ...] = ()) -> None:
        self.size = size
        self.heard = [queue.Queue[Failure]() for _ in range(size)]
        at = listener()
        self.port = at.getsockname()[1]
        self.ranks = {0: Lifeline(0, size, self.heard[0].put, listener=at, token="secret")}
        for rank in range(1, size):
            if rank not in absent:
                self.comes(rank)
        self.wait_until_known(*self.ranks)

    def comes(self, rank: int) -> None:
        connect = partial(connection_to, ("127.0.0.1", self.port), 30.0)
        self.ranks[rank] = Lifeline(rank, self.size, self.heard[rank].put, connect=connect, token="secret")

    def wait_until_known(self, *ranks: int) -> None:
        while not self.ranks[0]._known >= set(ranks):
            time.sleep(0.01)

    def cut(self, rank: int) -> None:
        """As the kernel does where a process dies, which says nothing more of others either."""
        self.ranks[rank]._over = True
        for connection in list(self.ranks[rank]._rank_of):
            with contextlib.suppress(OSError):  # the other side has hung up already
                connection.shutdown(socket.SHUT_RDWR)

    def hears(self, rank: int) -> Failure:
        return self.heard[rank].get(timeout=30)


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
        with socket.create_connection(("127.0.0.1", job.port)) as stranger:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b""
    time.sleep(QUIET)
    assert all(heard.empty() for heard in job.heard)
    job.ranks[1].end(Failure(1, "still heard."))
    assert job.hears(0) == Failure(1, "still heard.")


def test_what_is_announced_reaches_those_who_come_later_too() -> None:
    job = Job(3, absent=(2,))
    job.ranks[0].announce(1234)
    job.comes(2)
    for rank in (1, 2):
        while job.ranks[rank].announced() is None:
            time.sleep(0.01)
        assert job.ranks[rank].announced() == 1234


@pytest.mark.parametrize("failed", [0, 1])
def test_a_failure_waits_for_those_who_come_later(failed) -> None:
    job, failure = Job(3, absent=(2,)), Failure(failed, "no.")
    ending = threading.Thread(target=job.ranks[failed].end, args=(failure,))
    ending.start()
    assert job.hears(1 - failed) == failure if failed == 0 else True
    time.sleep(QUIET)
    assert job.heard[0].empty(), "the first process has left before all have heard"
    job.comes(2)
    assert job.hears(2) == failure
    if failed == 1:
        assert job.hears(0) == failure
    ending.join(30)
    assert not ending.is_alive()


@pytest.mark.parametrize("failed", [0, 1])
def test_a_failure_does_not_wait_for_ever(failed, monkeypatch) -> None:
    monkeypatch.setattr(lifeline, "LINGER", 0.2)
    job = Job(3, absent=(2,))
    job.ranks[failed].end(Failure(failed, "no."))
    assert job.hears(1 - failed) == Failure(failed, "no.")


def test_nobody_is_there_to_connect_to() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert connection_to(("127.0.0.1", port), 0.5) is None
