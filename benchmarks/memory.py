"""Memory at the peak: resident on a CPU, allocated on a GPU.

On a CPU the operating system's high-water mark counts, because it sees the scratch buffers of oneDNN and MKL, which
PyTorch does not count. It is one for the whole process, so every measurement has a process of its own.
"""

from __future__ import annotations

import ctypes
import gc
from dataclasses import replace
from multiprocessing.connection import Connection

import torch

from benchmarks.processes import Host
from benchmarks.suite import Run, Shape, suite

MIB = 1 << 20


class PeakMemory:
    """Bytes at the peak beyond those in place when it was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            ctypes.CDLL(None).malloc_trim(0)
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            self._before = _status_bytes("VmRSS")

    def extra(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return _status_bytes("VmHWM") - self._before


def _status_bytes(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{field}:"))


def extra_mib(name: str, key: str, shape: Shape, device: torch.device, threads: int) -> float:
    """MiB at the peak of one call of a suite's variant beyond its inputs, results and gradients included.

    Raises:
        ProcessFailed: on a CPU, the call failed or its process was killed.
        OSError: the system has no `/proc/self/clear_refs`.
    """
    if device.type == "cuda":
        run = _prepared(name, key, shape, device)
        run()
        return _peak(run, device)
    host = Host("cpu")
    try:
        host.begin(_measure, name, key, shape, threads)
        return host.receive()
    finally:
        host.end()


def _measure(connection: Connection, name: str, key: str, shape: Shape, threads: int) -> None:
    """What a library needs once per process is left out, by a call at a tiny shape before."""
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    small = replace(shape, sequences=2, tokens=16, hidden=min(shape.hidden, 16), vocab=64)
    _prepared(name, key, small, device)()
    connection.send(_peak(_prepared(name, key, shape, device), device))


def _prepared(name: str, key: str, shape: Shape, device: torch.device) -> Run:
    measured = suite(name)
    return measured.variant(key).prepare(measured.build(shape, device, 0))


def _peak(run: Run, device: torch.device) -> float:
    memory = PeakMemory(device)
    results = run()
    extra = memory.extra()
    del results
    return extra / MIB
