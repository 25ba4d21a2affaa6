"""Which completions a row of a file has, and the way to rows of two and back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from iwpo_fast.command_config import ScoredDataConfig
from iwpo_fast.data.columns import NUMBERS
from iwpo_fast.data.numbering import Numbering
from iwpo_fast.scoring.run import ADDED
from iwpo_fast.scoring.texts import Texts
from iwpo_fast.scoring.texts import texts_of as texts_by_config

sys.path.append(str(Path(__file__).parents[1] / "data"))

from documented_forms import FORMS
from documented_schemas import SCHEMAS

SYSTEM = [{"role": "system", "content": "s"}]
ASK = [{"role": "user", "content": "ask"}]


def texts_of(records, numbering, on_prefix_mismatch="split", **settings) -> Texts:
    return texts_by_config(records, numbering, ScoredDataConfig("", on_prefix_mismatch=on_prefix_mismatch, **settings))


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


ROWS = [
    ({"prompt": "p", "chosen": "a", "rejected": "b"}, "p", {"chosen": ["a"], "rejected": ["b"]}),
    ({"chosen": "the cat", "rejected": "the dog"}, "the", {"chosen": [" cat"], "rejected": [" dog"]}),
    ({"prompt": "p", "completion": "a"}, "p", {"completion": ["a"]}),
    ({"prompt": "p", "completion": ""}, "p", {"completion": [""]}),
    ({"prompt": ASK, "completion": "a"}, ASK, {"completion": [said("a")]}),
    ({"prompt": ASK, "completion": []}, ASK, {"completion": [said("")]}),
    ({"prompt": ASK, "chosen": "", "rejected": "a"}, ASK, {"chosen": [said("")], "rejected": [said("a")]}),
    ({"messages": [*ASK, *said("a")]}, ASK, {"messages": [said("a")]}),
    ({"prompt": "p", "candidates": ["a", "", "c"]}, "p", {"candidates": ["a", "", "c"]}),
    ({"prompt": "ask", "candidates": [said("a"), said("b")]}, ASK, {"candidates": [said("a"), said("b")]}),
    (
        {"prompt": "p", "chosen": "a", "rejected": "b", "candidates": ["c"]},
        "p",
        {"chosen": ["a"], "rejected": ["b"], "candidates": ["c"]},
    ),
    ({"prompt": "p", "first": "a", "second": "b"}, "p", {"first": ["a"], "second": ["b"]}),
    ({"prompt": "p", "ranked": ["a", "b"]}, "p", {"ranked": ["a", "b"]}),
    (
        {"conversations": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "a"}]},
        ASK,
        {"messages": [said("a")]},
    ),
    ({"messages": json.dumps([*ASK, *said("a")])}, ASK, {"messages": [said("a")]}),
    ({"messages": ASK, "completion": "a"}, ASK, {"completion": [said("a")]}),
    ({"conversations": ASK, "chosen": "a", "rejected": "b"}, ASK, {"chosen": [said("a")], "rejected": [said("b")]}),
    ({"prompt": "ask", "completion": said("a")[0]}, ASK, {"completion": [said("a")]}),
    ({"system": "s", "prompt": "ask", "completion": "a"}, [*SYSTEM, *ASK], {"completion": [said("a")]}),
    (
        {"history": [["h", "i"]], "prompt": ASK, "candidates": ["a"]},
        [{"role": "user", "content": "h"}, *said("i"), *ASK],
        {"candidates": [said("a")]},
    ),
]


@pytest.mark.parametrize(("row", "prompt", "completions"), ROWS, ids=[",".join(row) for row, *_ in ROWS])
def test_completions_are_found_by_the_columns_of_a_row(row, prompt, completions) -> None:
    texts = texts_of({1: row}, Numbering("f.jsonl"), "error")
    assert texts.rows.prompt[0] == prompt
    assert texts.columns == [{name: len(column) for name, column in completions.items()}]
    both = [text for pair in zip(texts.rows.chosen, texts.rows.rejected, strict=True) for text in pair]
    wanted = [text for column in completions.values() for text in column]
    assert both == wanted + wanted[-1:] * (len(wanted) % 2)


def test_columns_may_be_joined() -> None:
    row = {"instruction": "say", "input": "red", "completion": "a"}
    texts = texts_of({1: row}, Numbering("f.jsonl"), columns={"prompt": "instruction+input"})
    assert texts.rows.prompt == ["say\nred"]
    row = {"prompt": "say", "input": "red", "completion": "a"}
    texts = texts_of({1: row}, Numbering("f.jsonl"), columns={"prompt": "prompt+input"})
    assert (texts.rows.prompt, texts.lines) == (["say\nred"], [])


READ = [form for form in (*FORMS, *SCHEMAS) if not isinstance(form.texts, str)]


@pytest.mark.parametrize("form", READ, ids=[form.title for form in READ])
def test_every_documented_form_is_read_as_training_reads_it(form) -> None:
    columns = {
        ours: theirs for ours, theirs in form.settings.get("columns", {}).items() if ours not in (*NUMBERS, "annotator")
    }
    texts = texts_of({1: form.row}, Numbering("f.jsonl"), columns=columns)
    assert texts.rows.prompt[0] == form.texts[0]
    laid_out = [*texts.rows.chosen, *texts.rows.rejected]
    assert all(text in laid_out for text in form.texts[1:])
    assert [name for name in form.unread if name not in "\n".join(texts.lines)] == []


def test_candidates_of_public_data_sets_are_scored_by_their_column() -> None:
    for name in ("openbmb/UltraFeedback", "berkeley-nest/Nectar", "princeton-nlp/llama3-ultrafeedback"):
        [form] = [form for form in SCHEMAS if form.title == name]
        [columns] = texts_of({1: form.row}, Numbering("f.jsonl")).columns
        [listed] = columns.keys() - {"chosen", "rejected"}
        assert columns[listed] == len(form.row[listed]) and ADDED[listed] == ("scores", "spreads")


def test_plain_text_becomes_conversations_by_as_chat() -> None:
    rows = {1: {"prompt": "ask", "completion": "a"}, 2: {"prompt": ASK, "completion": "b"}}
    for as_chat, some in ((True, rows), ("auto", rows), (True, {1: rows[1]})):
        texts = texts_of(some, Numbering("f.jsonl"), as_chat=as_chat)
        assert texts.rows.prompt[0] == ASK and texts.rows.chosen[0] == said("a")
    assert texts_of({1: rows[1]}, Numbering("f.jsonl"), as_chat="auto").rows.prompt == ["ask"]


def test_json_text_is_decided_by_all_rows() -> None:
    talk = json.dumps(said("a"))
    both = texts_of({n: {"prompt": ASK, "completion": talk} for n in (1, 2)}, Numbering("f.jsonl"))
    assert both.rows.chosen[0] == said("a") and "completion: JSON text" in "\n".join(both.lines)
    rows = {1: {"prompt": "p", "completion": talk}, 2: {"prompt": "p", "completion": "b"}}
    one = texts_of(rows, Numbering("f.jsonl"))
    assert one.rows.chosen == [talk, "b"] and "stays text (data.json_columns): 1" in "\n".join(one.lines)


REFUSED = [
    ({"system": "s", "chosen": "a b", "rejected": "a c"}, "has a system or history column, and no prompt"),
    ({"prompt": "p"}, "has neither chosen and rejected, nor first and second, completion"),
    ({"prompt": "p", "chosen": "a"}, "has no rejected"),
    ({"completion": "a"}, "has no prompt"),
    ({"prompt": "p", "candidates": []}, "has no list of texts as its candidates"),
    ({"prompt": "p", "candidates": "a"}, "has candidates of type str: make them a list"),
    ({"prompt": "p", "candidates": ["a", None]}, "has no completion"),
    ({"prompt": "p", "candidates": ["a", said("b")]}, "has a prompt as text and a candidate as messages"),
    (
        {"prompt": ASK, "completion": [{"role": "bot", "content": "a"}]},
        "has an answer without a message of the assistant",
    ),
    ({"question": "why", "chosen": "so it is", "rejected": "so it was"}, "has no prompt and text in question"),
    ({"frage": "was ist es?", "chosen": "so it is", "rejected": "so it was"}, "has no prompt and text in frage"),
    ({"prompt": "p", "completion": 5}, "has a chosen of type int"),
]


@pytest.mark.parametrize(("row", "sentence"), REFUSED, ids=[str(row) for row, _ in REFUSED])
def test_a_row_of_no_known_form_is_named_with_what_it_lacks(row, sentence) -> None:
    fine = {"prompt": "p", "completion": "a"}
    with pytest.raises(ValueError, match=f"^In f.jsonl, row 4 {sentence}"):
        texts_of({1: fine, 4: row}, Numbering("f.jsonl"), "error")


def test_values_of_the_laid_out_texts_come_back_to_their_rows() -> None:
    records = {
        2: {"prompt": "p", "chosen": "a", "rejected": "b"},
        3: {"prompt": "q", "candidates": ["c", "d", "e"]},
        5: {"prompt": "r", "completion": "f"},
        6: {"prompt": "s", "chosen": "g", "rejected": "h", "candidates": ["i"]},
    }
    texts = texts_of(records, Numbering("f.jsonl"), "error")
    assert texts.rows.prompt == ["p", "q", "q", "r", "s", "s"]
    assert texts.rows.numbers.tolist() == [2, 3, 3, 5, 6, 6] and texts.of.tolist() == [0, 1, 1, 2, 3, 3]
    laid_out = np.array([texts.rows.chosen, texts.rows.rejected]).T
    found = [{name: values.tolist() for name, values in row.items()} for row in texts.of_file(laid_out)]
    assert found == [
        {"chosen": ["a"], "rejected": ["b"]},
        {"candidates": ["c", "d", "e"]},
        {"completion": ["f"]},
        {"chosen": ["g"], "rejected": ["h"], "candidates": ["i"]},
    ]


def test_rows_without_one_prompt_are_refused_or_left_without_completions() -> None:
    apart = {"chosen": ASK, "rejected": said("b")}
    fine = {"messages": [*ASK, *said("a")]}
    with pytest.raises(
        ValueError, match=r"row 7 has conversations without a common beginning.*on_prefix_mismatch drop"
    ):
        texts_of({7: apart, 8: fine}, Numbering("f.jsonl"), "error")
    texts = texts_of({7: apart, 8: fine}, Numbering("f.jsonl"), "drop")
    assert texts.columns == [{}, {"messages": 1}] and texts.of.tolist() == [1]


def test_prompts_that_pairs_repeat_are_cut_off_as_in_training() -> None:
    records = {
        i: {"prompt": "Say it now: ", "chosen": f"Say it now: a{i}", "rejected": "Say it now: b"} for i in (1, 2)
    }
    assert texts_of(records, Numbering("f.jsonl"), "error").rows.chosen == ["a1", "a2"]
    with pytest.raises(ValueError, match="row 2 mixes conversations and plain text"):
        texts_of({1: records[1], 2: {"prompt": ASK, "completion": "a"}}, Numbering("f.jsonl"), "error")
