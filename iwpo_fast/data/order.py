"""Which pairs each optimiser step sees, and how they are dealt into micro-batches."""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Turn(NamedTuple):
    """A micro-batch of this rank: the rows of its pairs, of which there may be none, and how many come after it."""

    rows: np.ndarray
    left: int


def in_turn(batches: Sequence[np.ndarray]) -> list[Turn]:
    """This rank's micro-batches of one step, or of one pass over data."""
    return [Turn(rows, len(batches) - done) for done, rows in enumerate(batches, start=1)]


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
    rows: np.ndarray,
    tokens: np.ndarray,
    *,
    budget: int,
    max_pairs: int | None = None,
    ranks: int = 1,
    prompts: np.ndarray | None = None,
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
        prompts: int64, number of every pair's prompt, indexed by row; pairs of one prompt stay together as far as they
            fit into one micro-batch, so that it is shared. None deals every pair by itself.

    Returns:
        For each rank its micro-batches, each an array of rows.
    """
    cap = max_pairs or max(1, len(rows))
    units = _units(rows[np.argsort(-tokens[rows], kind="stable")], tokens, prompts, budget=budget, cap=cap)
    per_rank = math.ceil(max(tokens[rows].sum() / budget, len(rows) / cap) / ranks)
    while True:
        bins = _fill(units, bins=per_rank * ranks, cap=cap)
        if all(len(rows_) <= 1 or (len(rows_) <= cap and tokens[rows_].sum() <= budget) for rows_ in bins):
            return [bins[rank::ranks] for rank in range(ranks)]
        per_rank += max(1, per_rank // 50)


def _units(
    rows: np.ndarray, tokens: np.ndarray, prompts: np.ndarray | None, *, budget: int, cap: int
) -> list[tuple[int, list[int]]]:
    """Rows that are dealt together, with their tokens; those with most tokens first."""
    if prompts is None:
        return [(int(tokens[row]), [int(row)]) for row in rows]
    units: list[tuple[int, list[int]]] = []
    latest: dict[int, int] = {}
    for row in rows.tolist():
        prompt = int(prompts[row])
        load, together = units[latest[prompt]] if prompt in latest else (0, [])
        if not together or len(together) == cap or load + tokens[row] > budget:
            latest[prompt] = len(units)
            units.append((int(tokens[row]), [row]))
        else:
            units[latest[prompt]] = load + int(tokens[row]), [*together, row]
    return sorted(units, key=lambda unit: -unit[0])


def _fill(units: list[tuple[int, list[int]]], *, bins: int, cap: int) -> list[np.ndarray]:
    filled: list[list[int]] = [[] for _ in range(bins)]
    emptiest_first = [(0, i) for i in range(bins)]
    for tokens, rows in units:
        load, i = heapq.heappop(emptiest_first)
        filled[i] += rows
        if len(filled[i]) < cap:
            heapq.heappush(emptiest_first, (load + tokens, i))
    return [np.array(bin_, dtype=np.int64) for bin_ in filled]
