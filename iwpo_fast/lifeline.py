"""A connection from every process of a job to the first: it breaks when a process dies, whatever the others wait for.

A process that waits for others in NCCL learns of nothing by itself. The kernel closes the connections of a process that
dies, and keep-alive packets, which the kernel answers too, tell of a machine that has gone; a process that is only busy
is left alone. Messages are lines of JSON.
"""

from __future__ import annotations

import json
import os
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
        publish: called on the first process with where the others find it.
        find: called on the others for that.
        on_failure: called once, in a thread, when another process has failed.
    """

    def __init__(
        self,
        rank: int,
        publish: Callable[[str], None],
        find: Callable[[], str],
        on_failure: Callable[[Failure], None],
    ) -> None:
        self._rank = rank
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._over = False
        self._token = ""
        self._rank_of: dict[socket.socket, int] = {}
        self._unread: dict[socket.socket, bytes] = {}
        self._selector = selectors.DefaultSelector()
        if rank == 0:
            listener = _listener()
            self._token = secrets.token_hex(16)
            names = [os.environ["MASTER_ADDR"], socket.getfqdn(), socket.gethostname()]
            publish(json.dumps({"port": listener.getsockname()[1], "names": names, "token": self._token}))
            self._selector.register(listener, selectors.EVENT_READ, "listener")
        else:
            place = json.loads(find())
            connection = _connect(place["names"], place["port"])
            _send(connection, {"rank": rank, "token": place["token"]})
            self._take(connection, 0)
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def end(self, failure: Failure | None) -> None:
        """Tell the others how this process ends, and stop watching them; None where all is well."""
        with self._lock:
            first, self._over = not self._over, True
        if first:
            self._tell({"over": True} if failure is None else failure._asdict())

    def wait_for_first(self) -> None:
        """Wait until the first process has ended, for as long as that takes once all know that they end."""
        deadline = time.monotonic() + PATIENCE
        while self._rank != 0 and self._rank_of and time.monotonic() < deadline:
            time.sleep(0.05)

    def _watch(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data == "listener":
                    self._take(cast(socket.socket, key.fileobj).accept()[0], UNKNOWN)
                else:
                    self._read(cast(socket.socket, key.fileobj))

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
                if not secrets.compare_digest(str(message["token"]), self._token):
                    raise ValueError
                self._rank_of[connection] = int(message["rank"])
                return
            failure = None if "over" in message else Failure(**message)
        except (ValueError, KeyError, TypeError):
            self._forget(connection)
            return
        self._forget(connection)
        if failure is not None:
            self._fail(failure)

    def _forget(self, connection: socket.socket) -> int:
        """Close a connection; the rank that it was with."""
        self._selector.unregister(connection)
        connection.close()
        return self._rank_of.pop(connection)

    def _fail(self, failure: Failure) -> None:
        """Pass on what has failed, and end this process, unless it is ending by itself."""
        with self._lock:
            first, self._over = not self._over, True
        if first:
            self._tell(failure._asdict())
            self._on_failure(failure)

    def _tell(self, message: dict[str, Any]) -> None:
        """To all others on the first process, to the first on the others."""
        for connection in list(self._rank_of):
            try:
                _send(connection, message)
            except OSError:  # it has gone already
                continue


def _listener() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _connect(names: list[str], port: int) -> socket.socket:
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
