"""What makes a run repeat its numbers: deterministic algorithms, and the number of CPU threads that it began with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from iwpo_fast import threads


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Inside, PyTorch takes deterministic algorithms where it has them; afterwards all is as it was.

    It would also fill what `torch.empty` returns, which costs a write of every buffer; the kernels write all they read.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    fill: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), fill.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    fill.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        fill.fill_uninitialized_memory = before[1]


@contextmanager
def threads_of_run(recorded: int | None) -> Iterator[str | None]:
    """Inside, PyTorch computes with as many threads as the run began with; afterwards with as many as before.

    Sums are shared out between threads, so a CPU's numbers depend bitwise on how many there are. A number that the
    user, or torchrun, has set stays.

    Args:
        recorded: threads of the run that is gone on with; None for a new run.

    Yields:
        A line on what differs from the beginning of the run; None where nothing does.
    """
    before = torch.get_num_threads()
    if recorded is None or recorded == before:
        yield None
    elif threads.chosen_by_user():
        yield (
            f"the run began with {recorded} CPU threads and goes on with the {before} that the environment asks for: "
            "its numbers differ in their last bits from here on"
        )
    else:
        torch.set_num_threads(recorded)
        try:
            yield f"the run began with {recorded} CPU threads and keeps them; on this machine it would have {before}"
        finally:
            torch.set_num_threads(before)
