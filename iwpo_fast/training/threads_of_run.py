"""The number of CPU threads that a run began with, taken again where it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from iwpo_fast import threads


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
