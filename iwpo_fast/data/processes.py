"""Work on many rows by several processes, whose results come in the order of the rows."""

from __future__ import annotations

import gc
import multiprocessing
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal, TypeVar

from iwpo_fast.threads import cores

Key = TypeVar("Key")
Result = TypeVar("Result")
Processes = int | Literal["auto"]

WAITING = 2
"""Results that each process may be ahead by."""

WORTH_A_PROCESS = 10_000
"""Rows below which another process is not started, because its start costs more than it does."""

_work: list[Callable[[Any], Any]] = []
"""What this process was forked to do."""


def processes_for(rows: int, setting: Processes) -> int:
    """How many processes work on so many rows: as many as are set, or one for each core while it has enough rows."""
    return max(1, min(cores(), rows // WORTH_A_PROCESS)) if setting == "auto" else setting


def in_order(work: Callable[[Key], Result], keys: Iterable[Key], processes: int) -> Iterator[Result]:
    """`work(key)` of each of `keys` in turn; what it raises is raised here, that of the first key first.

    Processes are forked, so they see rows and tokenizer as they are here, without a copy. They touch no GPU and start
    no threads, which is what a fork would break.

    Raises:
        ValueError: a process was killed.
    """
    if processes == 1:
        yield from map(work, keys)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, _begin, (work,)) as pool:
        waiting: deque[Future[Any]] = deque()
        try:
            for key in keys:
                waiting.append(_submitted(pool, key))
                if len(waiting) > WAITING * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ValueError(
                f"One of {processes} processes that tokenise was killed, most likely for want of memory: set "
                "data.processes to fewer."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, key: Any) -> Future[Any]:
    """The first call forks all processes, of which Python warns where other threads are there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return pool.submit(_do, key)


def _begin(work: Callable[[Any], Any]) -> None:
    gc.freeze()  # the collector would visit, and so copy, all memory that is shared with the parent
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the threads of the tokenizer did not come along
    _work[:] = [work]


def _do(key: Any) -> Any:
    return _work[0](key)
