"""Which pairs each optimiser step sees, and how they are dealt into micro-batches."""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class MicroBatch(NamedTuple):
    """A micro-batch of this rank: the rows of its pairs, of which there may be none, and how many come after it."""

    rows: np.ndarray
    left: int


class SharedPrompts(NamedTuple):
    """Prompts that rows of data share: int64, the number of every row's prompt, and the tokens of every prompt."""

    of: np.ndarray
    tokens: np.ndarray


def as_micro_batches(batches: Sequence[np.ndarray]) -> list[MicroBatch]:
    """This rank's micro-batches of one step, or of one pass over data."""
    return [MicroBatch(rows, len(batches) - done) for done, rows in enumerate(batches, start=1)]


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
    shared: SharedPrompts | None = None,
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
        shared: prompts that rows share; rows of one prompt stay together as far as they fit into one micro-batch, and
            `tokens` are those beside the prompt. None deals every row by itself.

    Returns:
        For each rank its micro-batches, each an array of rows.
    """
    cap = max_pairs or max(1, len(rows))
    units = _units(rows[np.argsort(-tokens[rows], kind="stable")], tokens, shared, budget=budget, cap=cap)
    per_rank = math.ceil(max(sum(load for load, _ in units) / budget, len(rows) / cap) / ranks)
    while True:
        bins = _fill(units, bins=per_rank * ranks, cap=cap)
        if all(len(together) <= 1 or (len(together) <= cap and load <= budget) for load, together in bins):
            dealt = [np.array(together, dtype=np.int64) for _, together in bins]
            return [dealt[rank::ranks] for rank in range(ranks)]
        per_rank += max(1, per_rank // 50)


def _units(
    rows: np.ndarray, tokens: np.ndarray, shared: SharedPrompts | None, *, budget: int, cap: int
) -> list[tuple[int, list[int]]]:
    """Rows that are dealt together, with their tokens; those with most tokens first."""
    if shared is None:
        return [(int(tokens[row]), [int(row)]) for row in rows]
    units: list[tuple[int, list[int]]] = []
    latest: dict[int, int] = {}
    for row in rows.tolist():
        prompt = int(shared.of[row])
        load, together = units[latest[prompt]] if prompt in latest else (0, [])
        if not together or len(together) == cap or load + tokens[row] > budget:
            latest[prompt] = len(units)
            units.append((int(shared.tokens[prompt] + tokens[row]), [row]))
        else:
            units[latest[prompt]] = load + int(tokens[row]), [*together, row]
    return sorted(units, key=lambda unit: -unit[0])


def _fill(units: list[tuple[int, list[int]]], *, bins: int, cap: int) -> list[tuple[int, list[int]]]:
    """Tokens and rows of each micro-batch."""
    filled: list[tuple[int, list[int]]] = [(0, [])] * bins
    emptiest_first = [(0, i) for i in range(bins)]
    for tokens, rows in units:
        load, i = heapq.heappop(emptiest_first)
        filled[i] = load + tokens, filled[i][1] + rows
        if len(filled[i][1]) < cap:
            heapq.heappush(emptiest_first, (load + tokens, i))
    return filled
