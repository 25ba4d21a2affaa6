"""The micro-batches of optimiser steps, made ahead of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from iwpo_fast.config import TrainConfig
from iwpo_fast.data.ahead import made_ahead
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.order import Turn, in_turn, micro_batches
from iwpo_fast.models import Policy
from iwpo_fast.training.loss import PreferenceLoss, Split
from iwpo_fast.world import World

Batches = Iterable[tuple[Turn, FlatBatch]]


def batches_ahead(
    policy: Policy,
    split: Split,
    steps: Iterable[np.ndarray],
    loss: PreferenceLoss,
    config: TrainConfig,
    world: World,
) -> Iterator[tuple[Turn, FlatBatch]]:
    """This rank's micro-batches of all `steps`, one step after the other, on the device.

    The next ones are made and copied while this one is computed, across the end of a step too. A turn without rows has
    the shortest pair for a batch, as a sharded policy must run something.

    Args:
        steps: int64, the rows of `split` that each step sees over all ranks.
    """
    pairs, optim = split.pairs, config.optim
    tokens, shortest = policy.tokens(pairs), np.array([pairs.tokens.argmin()])

    def make(turn: Turn) -> FlatBatch:
        return policy.ready(loss.batch(split, turn.rows if len(turn.rows) else shortest))

    def turns() -> Iterator[Turn]:
        for rows in steps:
            dealt = micro_batches(
                rows, tokens, budget=optim.tokens_per_batch, max_pairs=optim.max_pairs_per_batch, ranks=world.size
            )
            yield from in_turn(dealt[world.rank])

    return made_ahead(make, turns(), world.device, config.data.workers)


def one_step(batches: Iterator[tuple[Turn, FlatBatch]]) -> Iterator[tuple[Turn, FlatBatch]]:
    """Those up to the last of the step that is next; the others stay where they are."""
    for turn, batch in batches:
        yield turn, batch
        if not turn.left:
            return
