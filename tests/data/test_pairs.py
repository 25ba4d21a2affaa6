from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged

rows_of_ids = st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=6)


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged[row].tolist() for row in range(len(ragged))]


@pytest.mark.slow
@given(rows_of_ids)
def test_ragged_rows_come_back_as_they_went_in(rows) -> None:
    ragged = Ragged.from_rows(rows)
    assert lists(ragged) == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]


@pytest.mark.slow
@given(rows_of_ids, st.data())
def test_taken_rows_are_in_the_order_asked_for_and_may_repeat(rows, data) -> None:
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    taken = Ragged.from_rows(rows).take(np.array(wanted, dtype=np.int64))
    assert lists(taken) == [rows[row] for row in wanted]
    assert (taken.values.dtype, taken.offsets.dtype) == (np.int32, np.int64)


@pytest.mark.slow
@given(st.lists(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=3), min_size=1, max_size=4))
def test_concatenated_parts_follow_each_other(parts) -> None:
    whole = Ragged.concatenate([Ragged.from_rows(part) for part in parts])
    assert lists(whole) == [row for part in parts for row in part]
    assert (whole.values.dtype, whole.offsets.dtype) == (np.int32, np.int64)


def test_taking_pairs_takes_all_that_belongs_to_them() -> None:
    parts = [Ragged.from_rows([[10 * row + part] * (row + 1) for row in range(4)]) for part in range(3)]
    numbers = np.arange(4.0)
    pairs = Pairs(
        *parts,
        weight=numbers,
        label_smoothing=numbers / 10,
        columns={"cluster": numbers + 5},
        row=np.arange(10, 14),
        ref_logps=-np.stack([numbers, 2 * numbers], axis=1),
        ref_token_logps=(parts[1], parts[2]),
    )
    taken = pairs.take(np.array([2, 0]))
    assert lists(taken.prompt) == [[20, 20, 20], [0]]
    assert lists(taken.chosen) == [[21, 21, 21], [1]]
    assert lists(taken.rejected) == [[22, 22, 22], [2]]
    assert taken.weight.tolist() == [2.0, 0.0]
    assert taken.label_smoothing.tolist() == [0.2, 0.0]
    assert taken.columns["cluster"].tolist() == [7.0, 5.0]
    assert taken.tokens.tolist() == [12, 4]
    assert taken.row.tolist() == [12, 10]
    assert taken.ref_logps.tolist() == [[-2.0, -4.0], [0.0, 0.0]]
    assert [lists(part) for part in taken.ref_token_logps] == [lists(taken.chosen), lists(taken.rejected)]
    assert pairs.fingerprint() == replace(pairs, ref_logps=None, ref_token_logps=None).fingerprint()


def test_the_fingerprint_of_tokens_sees_ids_and_boundaries_but_no_weights() -> None:
    def pairs(chosen: list[list[int]], weight: float) -> Pairs:
        same = Ragged.from_rows([[1], [2]])
        return Pairs(same, Ragged.from_rows(chosen), same, np.full(2, weight))

    base = pairs([[1, 2], [3]], 1.0).token_fingerprint()
    assert pairs([[1, 2], [3]], 2.0).token_fingerprint() == base
    assert pairs([[1], [2, 3]], 1.0).token_fingerprint() != base
    assert pairs([[1, 2], [4]], 1.0).token_fingerprint() != base
