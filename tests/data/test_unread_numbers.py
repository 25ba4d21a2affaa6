"""A column of numbers that is not read is named, and one that was meant to be with what it was meant for."""

from __future__ import annotations

import pytest

from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows
from iwpo_fast.data.unread_numbers import UnreadNumbers

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("weights", "weight"),
        ("Weight", "weight"),
        ("label_smooth", "label_smoothing"),
        ("chosen_score", "score_chosen"),
    ],
)
def test_a_name_near_to_one_of_ours_is_a_question(name, meant) -> None:
    unread = UnreadNumbers({})
    unread({name: 0.5})
    unread({name: "0.5"})
    unread({name: None})
    line = f"{name} is not read, did you mean {meant}? (--data.columns '{{{meant}: {name}}}')"
    assert unread.notes() == {line: 2}


def test_other_numbers_are_one_line_without_what_numbers_rows() -> None:
    unread = UnreadNumbers({})
    unread(
        {
            "importance": 2,
            "length": 7,
            "row_id": 3,
            "is_valid": 1,
            "__index_level_0__": 3,
            "is_good": True,
            "topic": "red",
        }
    )
    unread({"importance": 2})
    assert unread.notes() == {"numbers that are not read, in importance, length, is_valid": 2}


def test_what_data_columns_name_or_leave_out_needs_no_word() -> None:
    for columns in ({"weight": None}, {"weight": "weights"}):
        unread = UnreadNumbers(columns)
        unread({"weights": "0.5"})
        assert unread.notes() == {}


def test_the_notes_of_a_file_say_them(write) -> None:
    config: DataConfig = write([PAIR | {"weights": 0.5}, PAIR | {"weights": 0.5}])
    [(line, count)] = read_rows(config)[0].notes.items()
    assert line.startswith("weights is not read, did you mean weight?") and count == 2
    assert read_rows(config, written=True)[0].notes == {}, "what the library wrote itself is no news"


def test_no_name_was_meant_for_a_column_that_rows_have(write) -> None:
    config: DataConfig = write([PAIR | {"weight": 2.0, "weights": [0.5, 1.5], "raw_weight": 1.0}] * 2)
    assert read_rows(config)[0].notes == {"numbers that are not read, in weights, raw_weight": 2}


def test_a_row_without_an_answer_is_shown_the_columns_it_has(write) -> None:
    named = {"question": "q", "preferred": "a", "dispreferred": "b"}
    with pytest.raises(ValueError, match=r"as in --data.columns '\{chosen: COLUMN, rejected: COLUMN\}'.* columns are "):
        read_rows(write([named]))
    with pytest.raises(ValueError, match=r"has no rejected: .* perhaps --data.columns '\{rejected: reject\}'"):
        read_rows(write([{"prompt": "q", "chosen": "a", "reject": "b"}]))
    with pytest.raises(ValueError, match="has no rejected although it has the column: fill it in"):
        read_rows(write([PAIR | {"rejected": None}]))
