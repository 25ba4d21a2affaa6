"""Which pairs each optimiser step sees, and how they are dealt into micro-batches."""

from __future__ import annotations

import functools
import heapq
import math

import numpy as np


@functools.lru_cache(maxsize=2)
def epoch_order(pairs: int, *, seed: int, epoch: int) -> np.ndarray:
    """int64 [pairs]: the order of one epoch, a function of seed and epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(pairs)


def step_rows(pairs: int, step: int, *, pairs_per_step: int, seed: int) -> np.ndarray:
    """Rows of the given optimiser step, counted from 0; the last step of an epoch may be smaller."""
    epoch, position = divmod(step, math.ceil(pairs / pairs_per_step))
    start = position * pairs_per_step
    return epoch_order(pairs, seed=seed, epoch=epoch)[start : start + pairs_per_step]


def micro_batches(
    rows: np.ndarray, tokens: np.ndarray, *, budget: int, max_pairs: int | None = None, ranks: int = 1
) -> list[list[np.ndarray]]:
    """Deal the rows of one step into micro-batches under a token budget.

    The longest pairs go first, each to the emptiest micro-batch, so that micro-batches, and with them ranks, carry
    nearly equal work. Every rank gets the same number of micro-batches; where pairs are short of that, some are empty.

    Args:
        rows: int64 [P], rows of the step.
        tokens: int64, tokens of every pair of the data set, indexed by row.
        budget: tokens that one micro-batch may hold; a single pair may exceed it.
        max_pairs: pairs that one micro-batch may hold.
        ranks: number of processes.

    Returns:
        For each rank its micro-batches, each an array of rows.
    """
    cap = max_pairs or max(1, len(rows))
    longest_first = rows[np.argsort(-tokens[rows], kind="stable")]
    per_rank = math.ceil(max(tokens[rows].sum() / budget, len(rows) / cap) / ranks)
    while True:
        bins = _fill(longest_first, tokens, bins=per_rank * ranks, cap=cap)
        if all(len(rows_) <= 1 or tokens[rows_].sum() <= budget for rows_ in bins):
            return [bins[rank::ranks] for rank in range(ranks)]
        per_rank += max(1, per_rank // 50)


def _fill(rows: np.ndarray, tokens: np.ndarray, *, bins: int, cap: int) -> list[np.ndarray]:
    filled: list[list[int]] = [[] for _ in range(bins)]
    emptiest_first = [(0, i) for i in range(bins)]
    for row in rows:
        load, i = heapq.heappop(emptiest_first)
        filled[i].append(int(row))
        if len(filled[i]) < cap:
            heapq.heappush(emptiest_first, (load + int(tokens[row]), i))
    return [np.array(bin_, dtype=np.int64) for bin_ in filled]
