"""The micro-batches of optimiser steps, made ahead of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from iwpo_fast.data.ahead import made_ahead
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.order import Turn, in_turn, micro_batches
from iwpo_fast.training.job import Job

Batches = Iterable[tuple[Turn, FlatBatch]]


def batches_ahead(job: Job, steps: Iterable[np.ndarray]) -> Iterator[tuple[Turn, FlatBatch]]:
    """This rank's micro-batches of all `steps`, one step after the other, on the device.

    The next ones are made and copied while this one is computed, across the end of a step too. An empty turn runs the
    shortest pair, because every rank of a sharded policy must run.

    Args:
        steps: int64, the rows of `job.pairs` that each step sees over all ranks.
    """
    optim, tokens = job.config.optim, job.policy.tokens(job.pairs)
    shortest = np.array([job.pairs.tokens.argmin()])

    def make(turn: Turn) -> FlatBatch:
        return job.policy.ready(job.batch(turn.rows if len(turn.rows) else shortest))

    def turns() -> Iterator[Turn]:
        for rows in steps:
            dealt = micro_batches(
                rows, tokens, budget=optim.tokens_per_batch, max_pairs=optim.max_pairs_per_batch, ranks=job.world.size
            )
            yield from in_turn(dealt[job.world.rank])

    return made_ahead(make, turns(), job.world.device, job.config.data.workers)


def one_step(batches: Iterator[tuple[Turn, FlatBatch]]) -> Iterator[tuple[Turn, FlatBatch]]:
    """Those up to the last of the step that is next; the others stay where they are."""
    for turn, batch in batches:
        yield turn, batch
        if not turn.left:
            return
