"""Batches made before their turn: by threads on the host, and in the device's queue before it needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import torch

from iwpo_fast.data.tensor_dataclass import TensorDataclass

Workers = int | Literal["auto"]
Key = TypeVar("Key")
Batch = TypeVar("Batch", bound=TensorDataclass)

WAITING = 4
"""Batches that each thread may be ahead by."""


def made_ahead(
    make: Callable[[Key], Batch], keys: Iterable[Key], device: torch.device, workers: Workers = "auto"
) -> Iterator[tuple[Key, Batch]]:
    """Each of `keys` in turn, with `make(key)` moved to `device`.

    The copy of the next batch is issued before this one is handed out, so it comes before this one's computations in
    the device's queue. Threads are enough, and without a start-up cost: batches are index tables of a few hundred
    kilobytes, made in milliseconds by NumPy, which mostly lets other threads run. `make` must not change anything;
    what it raises is raised here.

    Args:
        workers: threads that call `make`; 0 calls it in turn. `auto` takes one on a GPU and none on a CPU, which has
            nothing to wait for.
    """
    threads = int(device.type == "cuda") if workers == "auto" else workers

    def pinned(key: Key) -> Batch:
        batch = make(key)
        return batch.pin_memory() if device.type == "cuda" else batch

    made = _by_threads(pinned, keys, device, threads) if threads else ((key, pinned(key)) for key in keys)
    current: tuple[Key, Batch] | None = None
    for key, batch in made:
        coming = key, batch.to(device)
        if current is not None:
            yield current
        current = coming
    if current is not None:
        yield current


def _by_threads(
    make: Callable[[Key], Batch], keys: Iterable[Key], device: torch.device, threads: int
) -> Iterator[tuple[Key, Batch]]:
    pool = ThreadPoolExecutor(threads, "batches", *_begin_on_gpu(device))
    waiting: deque[tuple[Key, Future[Batch]]] = deque()
    try:
        for key in keys:
            waiting.append((key, pool.submit(make, key)))
            if len(waiting) > WAITING * threads:
                key, future = waiting.popleft()
                yield key, future.result()
        for key, future in waiting:
            yield key, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_on_gpu(device: torch.device) -> tuple[Any, ...]:
    """What a thread calls first, because a new one would pin memory for the first GPU, not for this process's."""
    if device.type != "cuda":
        return ()
    # Read here, because a new thread has a current GPU of its own.
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.set_device, (index,)
