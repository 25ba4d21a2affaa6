"""Two answers and a column that says which is better."""

from __future__ import annotations

import numpy as np
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


def test_an_empty_column_may_mean_a_tie(write) -> None:
    names = NAMES | {"tie": ["tie", ""]}
    rows = read_rows(write([row(None), row(""), row("model_a")], columns=COLUMNS, preferred=names))[0]
    assert (rows.chosen, rows.unpaired) == (["one"], 2)


@pytest.mark.parametrize(("of_a", "of_b"), [(1.0, 2.0), ([1.0, 3.0], [2.0, 4.0]), (None, 2.0)])
def test_scores_of_the_two_answers_go_with_them(of_a, of_b, write) -> None:
    columns = COLUMNS | {"score_first": "of_a", "score_second": "of_b"}
    scored = [row(winner) | {"of_a": of_a, "of_b": of_b} for winner in ("model_a", "tie", "model_b")]
    rows = read_rows(write(scored, columns=columns, preferred=NAMES))[0]
    a, b = (np.array(np.nan if score is None else score) for score in (of_a, of_b))
    assert sorted(rows.columns) == ["score_chosen", "score_rejected"]
    np.testing.assert_array_equal(rows.columns["score_chosen"], np.stack([a, b]))
    np.testing.assert_array_equal(rows.columns["score_rejected"], np.stack([b, a]))


def test_scores_of_the_two_answers_without_a_verdict_or_beside_those_of_a_pair_are_refused(write) -> None:
    scored = {"prompt": "q", "chosen": "one", "rejected": "two", "score_first": 1, "score_second": 0}
    with pytest.raises(ValueError, match="no column that says which is better"):
        read_rows(write([scored]))
    with pytest.raises(ValueError, match="has both score_chosen and score_first"):
        read_rows(write([scored | {"score_chosen": 1, "score_rejected": 0}]))
