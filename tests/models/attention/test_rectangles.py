"""Rectangles hold what their sequences are, and their masks show each query what it may see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iwpo_fast.models.attention.rectangles import rectangles_of

SHAPES = [([0], [1]), ([0] * 5, [5, 1, 8, 5, 1]), ([0] * 7, [100, 95, 90, 89, 2, 81, 100]), ([3, 0, 3, 1], [7] * 4)]


@pytest.mark.parametrize("window", [None, 1, 4, 1000])
@pytest.mark.parametrize(("before", "own"), SHAPES)
def test_rectangles_hold_every_query_once_and_its_keys_up_to_it(before, own, window) -> None:
    """Cells are checked one by one against the sequences that they are cut from."""
    query_bounds, key_bounds = np.cumsum([0, *own]), np.cumsum([0, *(np.array(before) + own)])
    rectangles, queries, keys, place = rectangles_of(query_bounds, key_bounds)
    assert queries[place].tolist() == list(range(sum(own)))
    assert sum(r.rows * r.queries for r in rectangles) == len(queries) <= sum(own) / 0.9
    assert sum(r.rows * r.keys for r in rectangles) == len(keys)
    start_q = start_k = rows = 0
    for r in rectangles:
        visible = r.mask(window, torch.float32, torch.device("cpu")).numpy() == 0
        for _ in range(r.rows):
            q, k = queries[start_q : start_q + r.queries], keys[start_k : start_k + r.keys]
            s = np.searchsorted(query_bounds, q[0], side="right") - 1
            for i, token in enumerate(q[: own[s]]):
                assert token == query_bounds[s] + i
                up_to_it = [key_bounds[s] + j for j in range(before[s] + i + 1)]
                assert k[visible[i]].tolist() == (up_to_it if window is None else up_to_it[-window:])
            start_q, start_k, rows = start_q + r.queries, start_k + r.keys, rows + 1
    assert rows == len(own)
