"""Rows of one completion: which are read, what becomes of their tokens, and what is wrong with others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.data.unpaired import refuse_unpaired
from iwpo_fast.preview.look import look_at

ROW = {"prompt": "Is it?", "completion": " Yes.", "label": True}
PAIR = {"prompt": "Is it?", "chosen": " Yes.", "rejected": " No."}
ASKED = [{"role": "user", "content": "Is it?"}]
SAID = [{"role": "assistant", "content": "Yes."}]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        (1.0, True),
        (0.0, False),
        ("True", True),
        ("0", False),
        ("1.0", True),
        ("desirable", True),
        ("Undesirable", False),
    ],
)
def test_a_label_is_true_or_false_or_1_or_0(label, expected, write) -> None:
    rows = read_rows(write([ROW | {"label": label}]))[0]
    assert rows.present is not None
    assert rows.present.tolist() == [[expected, not expected]]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "completion": SAID, "label": False},
        {"messages": [*ASKED, *SAID], "label": False},
        {"completion": [*ASKED, *SAID], "label": False},
        {"prompt": "Is it?", "completion": SAID, "kto_tag": False},
        {"prompt": ASKED, "completion": "Yes.", "label": False},
        {"prompt": "Is it?", "messages": [*ASKED, *SAID], "label": False, "kto_tag": 0},
        {"prompt": "", "messages": [*ASKED, *SAID], "label": False},
    ],
)
def test_messages_are_read_in_every_form_as_those_of_pairs(row, write) -> None:
    rows = read_rows(write([row]))[0]
    assert (rows.prompt[0], rows.chosen[0], rows.rejected[0]) == (ASKED, SAID, SAID)
    assert rows.present is not None and rows.present.tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"label": None}, "has one completion and no label: give it a label, true where"),
        ({"label": "good"}, "has the label 'good' beside one completion: make it true where"),
        (
            {"kto_tag": False},
            "has a label and a kto_tag that differ: leave one of them out, as in data.col",
        ),
        ({"label": 2}, "has the label 2 beside one completion: make it true where"),
        ({"completion": ""}, "has an empty completion: fill it in or remove the row"),
        ({"completion": []}, "has an empty completion: fill it in or remove the row"),
        ({"completion": 3}, "has a completion of type int: make it a string or a list of messages"),
        ({"completion": [{"content": "x"}]}, "has a message without a role in completion"),
        ({"completion": ASKED}, "has an empty completion: fill it in or remove the row"),
        (
            {"completion": [{"role": "user", "content": "Why?"}]},
            "has an answer without a message of the assistant in completion",
        ),
        ({"prompt": None}, "has one completion and no prompt: add it, or name the column"),
        ({"score_chosen": 1.0, "score_rejected": 0.0}, "has one completion and a score_chosen, which is of a pair"),
    ],
)
def test_what_is_wrong_with_a_row_is_one_sentence_with_its_number(row: dict[str, Any], sentence, write) -> None:
    prompt = {} if isinstance(row.get("completion", ""), str) else {"prompt": ASKED}
    with pytest.raises(ValueError, match=rf"^In pairs\.jsonl, row 2 {sentence}"):
        read_rows(write([ROW, ROW | prompt | row]))


def test_a_prompt_beside_a_conversation_that_does_not_say_it_is_refused_and_not_lost(write) -> None:
    row = {"prompt": "Is that so?", "messages": [*ASKED, *SAID], "label": True}
    with pytest.raises(ValueError, match=r"row 1 has a prompt that its messages do not say: .*\{prompt: null\}"):
        read_rows(write([row]))
    assert read_rows(write([row], columns={"prompt": None}))[0].prompt[0] == ASKED


def test_columns_of_other_names_are_read_by_their_setting(write) -> None:
    columns = {"completion": "response", "label": "good", "prompt": "question"}
    rows = read_rows(write([{"question": "Is it?", "response": "Yes.", "good": 0}], columns=columns))[0]
    assert (rows.prompt[0], rows.chosen[0]) == ("Is it?", "Yes.")
    assert rows.present is not None and not rows.unread


def test_a_label_beside_a_pair_means_nothing(write) -> None:
    assert read_rows(write([PAIR | {"label": 1}]))[0].present is None


@pytest.mark.parametrize("beside", [[], [PAIR]])
def test_the_absent_completion_has_no_token_and_the_other_those_of_a_pair(beside, write, tokenizer) -> None:
    config = write([PAIR])
    whole, _ = tokenise(read_rows(config)[0], tokenizer, config)
    config = write([ROW, *beside, ROW | {"completion": " No.", "label": False}])
    for _ in range(2):  # once more from the cache
        pairs, ledger = tokenise(read_rows(config)[0], tokenizer, config)
        last = len(pairs) - 1
        assert pairs.chosen[0].tolist() == whole.chosen[0].tolist()
        assert pairs.rejected[last].tolist() == whole.rejected[0].tolist()
        assert not len(pairs.rejected[0]) and not len(pairs.chosen[last])
        assert (ledger.desirable, ledger.undesirable) == (1, 1)
        assert ledger.lines()[0] == f"pairs.jsonl: {len(pairs)} rows read, {len(pairs)} kept"
        assert ledger.as_json()["desirable"] == 1


def test_another_label_is_not_read_from_the_cache_of_the_first(write, tokenizer) -> None:
    for label in (True, False):
        config = write([ROW | {"label": label}])
        pairs, _ = tokenise(read_rows(config)[0], tokenizer, config)
        assert (len(pairs.chosen[0]) > 0) == label == (len(pairs.rejected[0]) == 0)


def test_a_completion_that_is_cut_to_nothing_is_dropped_as_one_of_a_pair_is(write, tokenizer) -> None:
    config = write(
        [ROW, ROW | {"prompt": "Is it so or is it so?" * 9}], max_length=40, truncation="truncate_completion"
    )
    pairs, ledger = tokenise(read_rows(config)[0], tokenizer, config)
    assert (len(pairs), ledger.dropped_empty, ledger.desirable) == (1, 1, 1)


def test_a_preview_names_the_completion_by_its_label(write, tokenizer) -> None:
    config = write([ROW, ROW | {"label": False}, PAIR])
    looks = look_at(read_rows(config)[0], {"a": 0, "b": 1, "c": 2}, tokenizer, config)
    assert [list(look.parts) for look in looks] == [
        ["prompt", "desirable"],
        ["prompt", "undesirable"],
        ["prompt", "chosen", "rejected"],
    ]


def test_a_preview_shows_no_scores_of_a_row_that_has_none(write, tokenizer) -> None:
    scored = {"prompt": "Is it?", "candidates": [" Yes.", " No."], "candidate_scores": [1.0, 0.5]}
    of_single, of_pair = look_at(read_rows(write([ROW, scored]))[0], {"a": 0, "b": 1}, tokenizer, write([ROW]))
    assert list(of_single.columns) == ["weight"]
    assert (of_pair.columns["score_chosen"], of_pair.columns["score_rejected"]) == (1.0, 0.5)


def test_rows_that_hold_pairs_alone_after_a_choice_are_pairs(write) -> None:
    rows = read_rows(write([ROW, PAIR]))[0]
    assert rows.take(np.array([1])).present is None
    with pytest.raises(
        ValueError, match=r"In pairs\.jsonl, row 1 has one completion and a label, and iwpo run compares"
    ):
        refuse_unpaired(rows, "iwpo run")


@pytest.mark.parametrize("name", ["response", "output", "something"])
def test_an_answer_under_another_name_is_asked_about(name, write) -> None:
    row = {"prompt": "Is it?", name: "Yes.", "label": True}
    meant = "COLUMN" if name == "something" else name
    with pytest.raises(ValueError, match=rf"has a label and .* '\{{completion: {meant}\}}': its columns are"):
        read_rows(write([row]))
    assert read_rows(write([row], columns={"completion": name}))[0].chosen == ["Yes."]
