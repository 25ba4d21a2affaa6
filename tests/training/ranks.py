"""Functions run by several processes at once, as one job on this machine."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

# Processes are forked from one that has imported what takes seconds to import.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["iwpo_fast.training", "torch.distributed.checkpoint"])


def run_on_ranks(size: int, function: Callable[..., Any], *arguments: Any, timeout: float = 200) -> list[Any]:
    """Call `function(*arguments)` in each of `size` processes; what it returns, by rank.

    Raises:
        RuntimeError: it failed in one of them; has its traceback.
        TimeoutError: one of them took longer than `timeout` seconds.
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
    results = []
    try:
        for rank, (receiver, _) in enumerate(pipes):
            if not receiver.poll(timeout):
                raise TimeoutError(f"rank {rank} of {size} has not answered in {timeout} seconds")
            failed, result = receiver.recv()
            if failed:
                raise RuntimeError(f"rank {rank} of {size}: {result}")
            results.append(result)
    finally:
        for process in ranks:
            process.kill()
            process.join()
    return results


def _run(
    rank: int, size: int, port: int, sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        sender.send((False, function(*arguments)))
    except BaseException:
        sender.send((True, traceback.format_exc()))
        raise
