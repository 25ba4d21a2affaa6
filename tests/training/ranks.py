"""Functions run by several processes at once, as one job on this machine."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from forked import CONTEXT, HANG, leave_imports_to_themselves


def run_on_ranks(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(*arguments)` in each of `size` processes; what it returns, by rank.

    Raises:
        RuntimeError: it failed in one of them; has its traceback.
        TimeoutError: none of those that are left has answered in `HANG` seconds.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
    ranks = [
        CONTEXT.Process(target=_run, args=(rank, size, port, pipes[rank][1], function, arguments), daemon=True)
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    rank_of = {receiver: rank for rank, (receiver, _) in enumerate(pipes)}
    results = {}
    try:
        while rank_of:
            answered = wait(rank_of, HANG)
            if not answered:
                raise TimeoutError(f"ranks {list(rank_of.values())} of {size} have not answered in {HANG:.0f} seconds")
            for receiver in answered:
                rank = rank_of.pop(receiver)
                failed, results[rank] = receiver.recv()
                if failed:  # the others may wait for it
                    raise RuntimeError(f"rank {rank} of {size}: {results[rank]}")
    finally:
        for process in ranks:
            process.kill()
            process.join()
    return [results[rank] for rank in range(size)]


def _run(
    rank: int, size: int, port: int, sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    leave_imports_to_themselves()
    try:
        sender.send((False, function(*arguments)))
    except BaseException:
        sender.send((True, traceback.format_exc()))
        raise
