"""What an objective knows of the whole optimiser step, before the loss of its first micro-batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.models import Policy
from iwpo_fast.models.sharding import turns
from iwpo_fast.objectives.registry import State
from iwpo_fast.training.loss import PreferenceLoss, Split, StepConstants
from iwpo_fast.world import World


@torch.no_grad()
def step_constants(
    loss: PreferenceLoss,
    policy: Policy,
    split: Split,
    rows: np.ndarray,
    mine: Sequence[np.ndarray],
    world: World,
    state: dict[str, State],
    rng: np.random.Generator | None,
) -> StepConstants:
    """Constants [B] of the B pairs of a step, in the order of `rows`, the same on every rank.

    Pairs of weight 0 have no part in them. Statistics that compare log-probs cost one more forward pass over the
    step, without dropout; the others nothing.

    Args:
        rows: int64 [B], pairs of the step over all ranks.
        mine: this rank's micro-batches of them.
        state: running means of the objective, changed in place.
        rng: of the random numbers that a statistic draws; None in an evaluation.
    """
    counted = np.flatnonzero(split.pairs.weight[rows] != 0)
    if not loss.mixture.has_statistics:
        return {}
    if not len(counted):  # Nobody reads the losses of this step, and no running mean may see it.
        counted, state = np.arange(len(rows)), {}
    logps = torch.zeros(len(rows), 2, dtype=torch.float64, device=world.device)
    if loss.mixture.needs_step_logps:
        was_training = policy.training
        policy.eval()
        for batch_rows in turns(policy, mine, split.pairs):
            batch = loss.batch(split, batch_rows, world.device)
            logps[positions(rows, batch_rows)] = loss.sequence_logps(loss.token_logps(policy, batch), batch)
        policy.train(was_training)
        world.sum_(logps)
    found = loss.mixture.constants(loss.whole_step(split, rows[counted], logps[counted]), state, rng)
    return {
        name: {key: _spread(value, counted, len(rows)) for key, value in part.items()} for name, part in found.items()
    }


def _spread(values: Tensor, counted: np.ndarray, pairs: int) -> Tensor:
    """[B] with `values` at the pairs that count, and the first of them at the others, whose loss nobody reads."""
    spread = values[:1].repeat(pairs)
    spread[torch.from_numpy(counted).to(values.device)] = values
    return spread


def of_batch(constants: StepConstants, rows: np.ndarray, batch_rows: np.ndarray) -> StepConstants:
    """The constants of some of the step's pairs."""
    if not constants:
        return constants
    index = positions(rows, batch_rows)
    return {name: {key: value[index] for key, value in part.items()} for name, part in constants.items()}


def positions(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of `wanted` stands in `rows`."""
    order = np.argsort(rows)
    return order[np.searchsorted(rows, wanted, sorter=order)]
