"""Gradient descent of many small heads at once, in rounds after which whoever trains may stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iwpo_fast.rewards.blocks import Float64s

LR = 4e-3
STEPS = 32
"""Steps of a round: their number bounds the work, however many rows there are."""
MOST_ROWS, LEAST_ROWS, PART = 1024, 32, 16
"""A step has a sixteenth of the rows, between these bounds."""
PATIENCE = 4


def descend(
    parameters: Sequence[Tensor],
    decayed: Sequence[Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    weights: NDArray[np.floating],
    decay: NDArray[np.floating],
    *,
    seed: int,
) -> Iterator[None]:
    """Change the parameters of m heads in place, by Adam with decoupled weight decay; one item after each round.

    Args:
        decayed: those of the parameters that shrink, [..., m, h] each.
        loss: sum over the heads of their mean losses, of some rows, int64 [b], and their weights [b, m].
        weights: [n, m], how often each head is shown each row.
        decay: [m].
        seed: of the order of rows.
    """
    optimizer = torch.optim.Adam(parameters, lr=LR, betas=(0.9, 0.99))
    keep = torch.from_numpy(1 - LR * decay).float()[:, None]
    # Rows count as often as a head is shown them, with a mean of 1 over all of them.
    times = torch.from_numpy(weights / weights.mean(axis=0)).float()
    count = len(weights)
    batches = _batches(count, min(MOST_ROWS, max(LEAST_ROWS, count // PART)), seed)
    while True:
        for rows in islice(batches, STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss(rows, times[rows]).backward()
            optimizer.step()
            with torch.no_grad():
                for part in decayed:
                    part.mul_(keep)
        yield


def best_rounds(losses: Iterable[Float64s]) -> list[tuple[int, Float64s]]:
    """For each of t candidates the rounds of the least mean loss, and its losses [n] then.

    Training stops when no candidate has had its least loss in the last `PATIENCE` rounds.

    Args:
        losses: [t, n] after each round, of rows that were not learnt from.
    """
    best: list[tuple[int, Float64s]] = []
    for rounds, found in enumerate(losses, start=1):
        best = best or [(0, np.full(found.shape[1], np.inf))] * len(found)
        for i, of_candidate in enumerate(found):
            if of_candidate.mean() < best[i][1].mean():
                best[i] = rounds, of_candidate
        if rounds - max(of_candidate for of_candidate, _ in best) >= PATIENCE:
            break
    return best


def _batches(rows: int, size: int, seed: int) -> Iterator[Tensor]:
    """Rows for one step after another, in a new order for every pass over them."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(rows, generator=generator).split(size)
