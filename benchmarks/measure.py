"""Time and memory of calls: interleaved rounds, buffers larger than the cache, peaks of fresh processes."""

from __future__ import annotations

import gc
import math
import os
import random
import time
from collections.abc import Mapping, Sequence

import torch

from benchmarks import peak_memory
from benchmarks.suite import Run, Shape

SAMPLE_SECONDS = 5e-3  # a sample repeats a short call until it takes this long
FEWEST_ROUNDS = 3
MOST_COPIES = 64  # of inputs so small that launches, not memory, take the time
MIB = 1 << 20


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copies_past_cache(size: int, device: torch.device) -> int:
    """Sets of inputs of `size` bytes to rotate through, so that none is still in the cache at its next turn."""
    if device.type == "cuda":
        cached = torch.cuda.get_device_properties(device).L2_cache_size
    else:
        cached = os.sysconf("SC_LEVEL3_CACHE_SIZE") if "SC_LEVEL3_CACHE_SIZE" in os.sysconf_names else 32 * MIB
    return min(MOST_COPIES, max(1, math.ceil(2 * cached / size)))


def interleaved(
    runs: Mapping[str, Sequence[Run]], rounds: int, device: torch.device, seed: int = 0, deadline: float = math.inf
) -> dict[str, list[float]]:
    """Milliseconds per call, one sample per round; every round takes all variants once, in a new order.

    Args:
        runs: of each variant, warm, the same call on several sets of inputs, used in turn.
        rounds: samples of each variant; fewer, but at least `FEWEST_ROUNDS`, where the deadline passes.
        deadline: by `time.monotonic`.
    """
    order = list(runs)
    calls = dict.fromkeys(order, 1)
    samples: dict[str, list[float]] = {key: [] for key in runs}
    shuffle = random.Random(seed).shuffle
    for done in range(rounds):
        if done >= FEWEST_ROUNDS and time.monotonic() > deadline:
            break
        shuffle(order)
        for key in order:
            seconds = _seconds(runs[key], calls[key], device)
            if done == 0 and seconds < SAMPLE_SECONDS:
                calls[key] = math.ceil(SAMPLE_SECONDS / seconds)
                seconds = _seconds(runs[key], calls[key], device)
            samples[key].append(1e3 * seconds)
    return samples


def _seconds(turns: Sequence[Run], calls: int, device: torch.device) -> float:
    """Mean time of one call: by events of the GPU, by the clock on a CPU."""
    synchronise(device)
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for call in range(calls):
            turns[call % len(turns)]()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / calls
    begin_s = time.perf_counter()
    for call in range(calls):
        turns[call % len(turns)]()
    return (time.perf_counter() - begin_s) / calls


def extra_mib(name: str, key: str, shape: Shape, device: torch.device, threads: int) -> float:
    """MiB at the peak of one call beyond its inputs, results and gradients included.

    By the allocator's count on a GPU, by resident memory on a CPU: see `peak_memory`.
    """
    if device.type == "cpu":
        return peak_memory.extra_mib(name, key, shape, threads)
    measured = peak_memory.suite(name)
    run = measured.variant(key).prepare(measured.build(shape, device, 0))
    run()
    gc.collect()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    results = run()
    torch.cuda.synchronize(device)
    del results
    return (torch.cuda.max_memory_allocated(device) - before) / MIB
