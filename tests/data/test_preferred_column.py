"""Two answers and a column that says which is better."""

from __future__ import annotations

import pytest

from iwpo_fast.data import read_rows
from iwpo_fast.data.tokenise import tokenise

COLUMNS = {"first": "a", "second": "b", "preferred": "winner"}
NAMES = {"first": "model_a", "second": "model_b", "tie": ["tie", "tie (bothbad)"]}
SIGNS = {"first": "negative", "second": "positive", "tie": 0}
TRUTHS = {"first": True, "second": False}
NUMBERS = {"first": [1, 2], "second": 0.5}


def row(winner: object) -> dict[str, object]:
    return {"prompt": "q", "a": "one", "b": "two", "winner": winner}


@pytest.mark.parametrize(
    ("preferred", "winner", "chosen"),
    [
        (NAMES, "model_a", "one"),
        (NAMES, " model_b ", "two"),
        (SIGNS, -3, "one"),
        (SIGNS, 0.5, "two"),
        (SIGNS, "2", "two"),
        (TRUTHS, True, "one"),
        (TRUTHS, False, "two"),
        (TRUTHS, "false", "two"),
        (NUMBERS, 2.0, "one"),
        (NUMBERS, "1", "one"),
        (NUMBERS, 0.5, "two"),
        ({"first": "0", "second": "1"}, 0, "one"),
        ({"first": 1, "second": 0}, 0, "two"),
    ],
)
def test_the_better_answer_is_the_chosen_one(preferred, winner, chosen, write) -> None:
    rows = read_rows(write([row(winner)], columns=COLUMNS, preferred=preferred))[0]
    assert rows.chosen == [chosen]
    assert {rows.chosen[0], rows.rejected[0]} == {"one", "two"}


def test_ties_are_left_out_and_counted(write, tokenizer) -> None:
    config = write([row("tie"), row("model_b"), row("tie (bothbad)")], columns=COLUMNS, preferred=NAMES)
    rows = read_rows(config)[0]
    assert (rows.chosen, rows.numbers.tolist(), rows.unpaired) == (["two"], [2], 2)
    _, ledger = tokenise(rows, tokenizer, config)
    assert ledger.rows_read == 3
    assert any("2 without a better and a worse response" in line for line in ledger.lines())


def test_data_of_ties_alone_are_refused(write) -> None:
    with pytest.raises(ValueError, match=r"^No row of pairs\.jsonl has .* a better and a worse answer"):
        read_rows(write([row("tie")], columns=COLUMNS, preferred=NAMES))


@pytest.mark.parametrize(
    ("preferred", "winner"),
    [
        (NAMES, "model_c"),
        (NAMES, None),
        (NAMES, True),
        (SIGNS, "a"),
        (TRUTHS, 1),
        (TRUTHS, None),
        ({}, "model_a"),
        (NUMBERS, 3),
        (NUMBERS, float("nan")),
        ({"first": "negative", "second": "positive"}, 0),
        (NAMES, ["model_a"]),
    ],
)
def test_a_value_that_means_nothing_is_refused_and_never_guessed(preferred, winner, write) -> None:
    with pytest.raises(ValueError, match=r"row 1 has .* in its column preferred: say in data\.preferred"):
        read_rows(write([row(winner)], columns=COLUMNS, preferred=preferred))


@pytest.mark.parametrize(
    ("columns", "preferred", "expected"),
    [
        (COLUMNS, {"first": 1}, "needs both first and second"),
        (COLUMNS, {"first": 1, "second": 1.0}, "has 1.0 twice"),
        (COLUMNS, {"first": 1, "second": 0, "both": 2}, "has both, which means nothing here: use first, second, tie"),
        ({"chosen": "a", "rejected": "b"}, NAMES, "no column holds them: name it as preferred in data.columns"),
        ({"preferred": "winner"}, NAMES, "row 1 has no first: data.columns names the two answers"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(columns, preferred, expected, write) -> None:
    with pytest.raises(ValueError, match=expected):
        read_rows(write([row("model_a")], columns=columns, preferred=preferred))


def test_a_column_that_is_named_goes_before_columns_of_our_names(write) -> None:
    named = row("model_b") | {"chosen": "x", "rejected": "y"}
    assert read_rows(write([named], columns=COLUMNS, preferred=NAMES))[0].chosen == ["two"]
