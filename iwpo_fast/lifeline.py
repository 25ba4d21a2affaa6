"""A connection from every process of a job to the first: it breaks when a process dies, whatever the others wait for.

A process that waits for others in NCCL learns of nothing by itself. The kernel closes the connections of a process that
dies, and keep-alive packets, which the kernel answers too, tell of a machine that has gone; a process that is only busy
is left alone. Messages are lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

KEEP_ALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds until the first packet and between packets, and how many may stay without answer: 20 s in all."""

PATIENCE = 10.0
"""Seconds that a connection or a message between machines may take."""

LINGER = 20.0
"""Seconds that a process which ends stays for others to hear of it."""

LOOK_EVERY = 0.1
"""Seconds between two looks whether they have."""

UNKNOWN = -1
"""Rank of whoever has connected and not said yet who it is."""

DIED = "it ended without a word; it was killed, or its machine is gone."


class Failure(NamedTuple):
    """The first process that failed, why, and the exit code of the job."""

    rank: int
    why: str
    code: int = 2

    def sentence(self) -> str:
        return f"rank {self.rank} failed first: {self.why}"


class Lifeline:
    """This process's end of the connections.

    Args:
        size: how many processes the job has.
        on_failure: called once, in a thread, when another process has failed.
        listener: on the first process, where the others connect; `connect` on the others, called in a thread for the
            connection to it, or for None where nobody is there.
        token: what the others have to say first.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        on_failure: Callable[[Failure], None],
        *,
        listener: socket.socket | None = None,
        connect: Callable[[], socket.socket | None] | None = None,
        token: str = "",
    ) -> None:
        self._rank = rank
        self._size = size
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._over = False
        self._told: Failure | None = None  # of this process or of another, for those who come later
        self._heard: Failure | None = None
        self._leaves_at = 0.0
        self._token = token
        self._come = threading.Event()
        self._known = {rank}
        self._announced: dict[str, Any] = {}
        self._rank_of: dict[socket.socket, int] = {}
        self._unread: dict[socket.socket, bytes] = {}
        self._selector = selectors.DefaultSelector()
        if listener is not None:
            self._selector.register(listener, selectors.EVENT_READ, "listener")
        threading.Thread(target=self._watch, args=(connect,), name="lifeline", daemon=True).start()

    def end(self, failure: Failure | None) -> None:
        """Tell the others how this process ends, and stop watching them; None where all is well.

        One that fails waits for those that have not come yet, so that they do not wait for it.
        """
        if not self._is_first_word():
            return
        self._told = failure
        if self._rank != 0 and failure is not None and not self._come.wait(LINGER):
            return
        self._tell({"over": True} if failure is None else failure._asdict())
        deadline = time.monotonic() + LINGER
        while self._rank == 0 and failure is not None and not self._all_know(deadline):
            time.sleep(0.05)

    def announce(self, port: int) -> None:
        """Tell all others, those who come later too, on which port they find something more."""
        self._announced = {"port": port}
        self._tell(self._announced)

    def announced(self) -> int | None:
        """The port that the first process has told, if it has."""
        return self._announced.get("port")

    def wait_for_first(self) -> None:
        """Wait until the first process has ended, for as long as that takes once all know that they end."""
        deadline = time.monotonic() + PATIENCE
        while self._rank != 0 and self._rank_of and time.monotonic() < deadline:
            time.sleep(0.05)

    def _watch(self, connect: Callable[[], socket.socket | None] | None) -> None:
        if connect is not None and not self._join(connect()):
            return
        while self._heard is None or (self._rank == 0 and not self._all_know(self._leaves_at)):
            for key, _ in self._selector.select(None if self._heard is None else LOOK_EVERY):
                if key.data == "listener":
                    self._take(cast(socket.socket, key.fileobj).accept()[0], UNKNOWN)
                else:
                    self._read(cast(socket.socket, key.fileobj))
        self._on_failure(self._heard)

    def _join(self, connection: socket.socket | None) -> bool:
        """Say to the first process who this is; whether it is there."""
        if connection is None:
            return False
        self._take(connection, 0)
        with contextlib.suppress(OSError):  # it has gone already, which is seen when it is read
            _send(connection, {"rank": self._rank, "token": self._token})
        self._come.set()
        return True

    def _all_know(self, deadline: float) -> bool:
        """Whether all processes have come to the first, which tells each of them what there is, or do not come."""
        return len(self._known) >= self._size or time.monotonic() > deadline

    def _is_first_word(self) -> bool:
        """Whether nothing has been said yet of how this process ends."""
        with self._lock:
            first, self._over = not self._over, True
        return first

    def _take(self, connection: socket.socket, rank: int) -> None:
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._rank_of[connection], self._unread[connection] = rank, b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        try:
            received = connection.recv(65536)
        except OSError:
            received = b""
        *lines, self._unread[connection] = (self._unread[connection] + received).split(b"\n")
        for line in lines:
            self._hear(connection, line)
        if not received and connection in self._rank_of:
            rank = self._forget(connection)
            if rank != UNKNOWN:
                self._fail(Failure(rank, DIED))

    def _hear(self, connection: socket.socket, line: bytes) -> None:
        """Take one message; whoever has found the port and does not know the token is sent away."""
        if connection not in self._rank_of:
            return
        try:
            message = json.loads(line)
            if self._rank_of[connection] == UNKNOWN:
                self._greet(connection, message)
                return
            if "port" in message:
                self._announced = message
                return
            failure = None if "over" in message else Failure(**message)
        except (ValueError, KeyError, TypeError):
            self._forget(connection)
            return
        self._forget(connection)
        if failure is not None:
            self._fail(failure)

    def _greet(self, connection: socket.socket, message: dict[str, Any]) -> None:
        """Tell one who has come what the others know."""
        if not secrets.compare_digest(str(message["token"]), self._token):
            raise ValueError
        self._rank_of[connection] = int(message["rank"])
        self._known.add(int(message["rank"]))
        said = self._announced if self._told is None else self._told._asdict()
        if said:
            with contextlib.suppress(OSError):
                _send(connection, said)

    def _forget(self, connection: socket.socket) -> int:
        """Close a connection; the rank that it was with."""
        self._selector.unregister(connection)
        connection.close()
        return self._rank_of.pop(connection)

    def _fail(self, failure: Failure) -> None:
        """Pass on what has failed, and end this process once all know, unless it is ending by itself."""
        if self._is_first_word():
            self._told, self._leaves_at = failure, time.monotonic() + LINGER
            self._tell(failure._asdict())
            self._heard = failure

    def _tell(self, message: dict[str, Any]) -> None:
        """To all others on the first process, to the first on the others."""
        for connection in list(self._rank_of):
            try:
                _send(connection, message)
            except OSError:  # it has gone already
                continue


def listener(port: int = 0) -> socket.socket:
    """Where the others connect; the kernel chooses the port where it is 0.

    Raises:
        OSError: the port is in use.
    """
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def connection_to(place: tuple[str, int], seconds: float) -> socket.socket | None:
    """To a process that may have to come yet; None if it does not come in so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            connection = socket.create_connection(place, timeout=5)
            if connection.getsockname() != connection.getpeername():  # as a port that nobody has may be given to both
                return connection
            connection.close()
        time.sleep(0.2)
    return None


def connection_to_any(names: list[str], port: int) -> socket.socket:
    """To a process that is there, by the first of its names that is known here.

    Raises:
        ValueError: none of them leads to it.
    """
    reasons = []
    for name in dict.fromkeys(names):
        try:
            return socket.create_connection((name, port), timeout=PATIENCE)
        except OSError as error:
            reasons.append(f"{name}: {error.strerror or error}")
    raise ValueError(
        f"the first process of the job cannot be reached on its port {port} ({'; '.join(reasons)}): let the machines "
        "of the job connect to one another on all ports."
    )


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")
