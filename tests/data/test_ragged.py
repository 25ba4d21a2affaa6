"""Rows of different lengths, in memory and in mapped files."""

from __future__ import annotations

import numpy as np
import pytest

from iwpo_fast.data import ragged, scratch
from iwpo_fast.data.context import trained_lengths, trained_of_first
from iwpo_fast.data.ragged import Ragged, RaggedWriter

ROWS = [[1, 2, 3], [], [-4], [5, -6], [], [7] * 40, [8]]


@pytest.fixture(params=["memory", "file"])
def place(request, monkeypatch) -> str:
    """Where arrays lie; in files, three rows are worked on at once."""
    if request.param == "file":
        for module in (scratch, ragged):
            monkeypatch.setattr(module, "LARGE", 8)
        monkeypatch.setattr(ragged, "ROWS_AT_ONCE", 3)
    return request.param


def listed(rows: Ragged) -> list[list[int]]:
    assert rows.values.dtype == np.int32
    assert rows.offsets.dtype == np.int64
    return [rows[i].tolist() for i in range(len(rows))]


def test_taken_sliced_and_joined_rows_are_those_of_lists(place) -> None:
    rows = Ragged.from_rows(ROWS)
    some = np.array([5, 0, 0, 1, 6, 3])
    assert listed(rows.take(some)) == [ROWS[i] for i in some]
    assert listed(rows.take(np.arange(7))) == ROWS
    assert listed(rows.slices(rows.offsets[:-1], np.minimum(rows.lengths, 2))) == [row[:2] for row in ROWS]
    assert listed(Ragged.concatenate([rows, rows.take(some)])) == [*ROWS, *(ROWS[i] for i in some)]
    assert listed(rows.take(np.array([], dtype=np.int64))) == []
    assert listed(rows.take(np.array([1, 4]))) == [[], []]


def test_a_writer_gives_back_all_rows_of_its_parts(place) -> None:
    writer, rows = RaggedWriter(), Ragged.from_rows(ROWS)
    for part in (rows, rows.take(np.array([1])), rows.take(np.array([5, 2])), Ragged.from_rows([])):
        writer.append(part)
    assert listed(writer.finish()) == [*ROWS, ROWS[1], ROWS[5], ROWS[2]]
    assert listed(RaggedWriter().finish()) == []


def test_trained_tokens_are_counted_row_by_row(place) -> None:
    rows = Ragged.from_rows(ROWS)
    assert trained_lengths(rows).tolist() == [3, 0, 0, 1, 0, 40, 1]
    assert trained_of_first(rows, np.minimum(rows.lengths, 1)).tolist() == [1, 0, 0, 1, 0, 1, 1]
