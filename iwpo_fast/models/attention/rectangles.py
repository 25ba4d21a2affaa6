"""Sequences of similar length side by side in rectangles, for attention that takes batches of one length."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SIMILAR = 0.9
"""Sequences share a rectangle if the queries of each are at least this fraction of the longest's."""


class Rectangle(NamedTuple):
    """`rows` sequences in one call, each with `queries` tokens that attend to `keys` tokens and end with them."""

    rows: int
    queries: int
    keys: int

    def mask(self, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
        """[queries, keys] of `dtype`, 0 where a query sees a key and -inf elsewhere.

        Args:
            window: how many keys a query sees, its own the last; None lets it see all up to its own.
        """
        before = self.keys - self.queries
        hidden = torch.full((self.queries, self.keys), -torch.inf, dtype=dtype, device=device)
        after_it = hidden.triu(before + 1)
        return after_it if window is None else after_it + hidden.tril(before - window)


def rectangles_of(
    query_bounds: np.ndarray, key_bounds: np.ndarray
) -> tuple[list[Rectangle], np.ndarray, np.ndarray, np.ndarray]:
    """Pad sequences of similar length on the right to rectangles.

    Sequences of one rectangle have equally many keys in front of their first query, so that one mask serves them all.

    Args:
        query_bounds, key_bounds: int [S + 1], where the queries of each sequence lie in T tokens, and its keys in W.

    Returns:
        The rectangles; int64, the query token in each of their cells (padding repeats the last of its row); int64,
        the key token likewise; int64 [T], the cell of each query token.
    """
    queries, keys = (np.diff(bounds).astype(np.int64) for bounds in (query_bounds, key_bounds))
    before = keys - queries
    groups: list[list[int]] = []
    for s in np.lexsort((-queries, before)).tolist():
        longest = groups[-1][0] if groups else s
        if not groups or before[s] != before[longest] or queries[s] < SIMILAR * queries[longest]:
            groups.append([])
        groups[-1].append(s)
    rectangles = [Rectangle(len(group), int(queries[group[0]]), int(keys[group[0]])) for group in groups]
    query_cells, key_cells, place = [], [], np.empty(query_bounds[-1], dtype=np.int64)
    end = 0
    for group, rectangle in zip(groups, rectangles, strict=True):
        tokens, inside = _cells(query_bounds, group, rectangle.queries)
        place[tokens[inside]] = end + np.flatnonzero(inside)
        end += tokens.size
        query_cells.append(tokens)
        key_cells.append(_cells(key_bounds, group, rectangle.keys)[0])
    return rectangles, np.concatenate(query_cells), np.concatenate(key_cells), place


def _cells(bounds: np.ndarray, group: list[int], width: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 and bool [rows · width]: the token in each cell, and whether it is more than padding."""
    first, last = (bounds[np.array(group) + i].astype(np.int64)[:, None] - i for i in (0, 1))
    tokens = first + np.arange(width)
    return np.minimum(tokens, last).ravel(), (tokens <= last).ravel()
