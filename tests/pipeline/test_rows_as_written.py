"""What a pipeline writes of its rows is what it reads again, whatever forms they had before."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows
from iwpo_fast.pipeline.origin import read_written
from iwpo_fast.pipeline.rows_file import write_rows


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


ASKED = "\n\nHuman: why\n\nAssistant:"
TWICE = {"prompt": "a b c ", "chosen": "a b c a b c x", "rejected": "a b c a b c y"}
HELLO = [user("hello")]
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an answer that says the prompt once more": (TWICE, {}),
    "the same in messages": (
        {"prompt": HELLO, "chosen": HELLO * 2 + said("x"), "rejected": HELLO * 2 + said("y")},
        {},
    ),
    "one dialogue that is repeated": ({"prompt": ASKED, "chosen": f"{ASKED}{ASKED} x", "rejected": f"{ASKED} y"}, {}),
    "candidates that say the prompt once more": (
        {"prompt": "a b c ", "candidates": ["a b c a b c x", "a b c a b c y", "a b c a b c z"], "scores": [3, 2, 1]},
        {},
    ),
    "candidates in messages that do": (
        {"prompt": HELLO, "candidates": [HELLO * 2 + said(text) for text in "xyz"], "scores": [3, 2, 1]},
        {},
    ),
    "an answer of white space": ({"chosen": f"{ASKED} ", "rejected": f"{ASKED} y"}, {}),
    "an answer of white space as a message": ({"chosen": f"{ASKED} ", "rejected": f"{ASKED} y"}, {"as_chat": True}),
    "answers that are JSON": ({"prompt": "a list", "chosen": '["a"]', "rejected": '["b"]'}, {"json_columns": []}),
    "no prompt": ({"chosen": "x", "rejected": "y"}, {}),
    "turns before the prompt": (
        {"system": "S", "history": [["a", "b"]], "prompt": "q", "chosen": "x", "rejected": "y"},
        {},
    ),
    "a call and its tools": (
        {
            "prompt": HELLO,
            "chosen": [{"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f"}}]}],
            "rejected": said("no"),
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
        {},
    ),
}


@pytest.mark.parametrize(("row", "settings"), CASES.values(), ids=CASES)
def test_a_row_is_read_again_as_it_was_written(tmp_path, row, settings) -> None:
    given, kept = tmp_path / "given.jsonl", tmp_path / "kept.jsonl"
    given.write_text(json.dumps(row) + "\n", encoding="utf-8")
    rows, _ = read_rows(DataConfig(path=str(given), eval_fraction=0.0, **settings))
    write_rows(kept, rows, rows.columns)
    again, _ = read_written(DataConfig(path=str(kept), eval_fraction=0.0, as_chat=False, json_columns=[]))
    assert [*map(list, (again.prompt, again.chosen, again.rejected))] == [
        *map(list, (rows.prompt, rows.chosen, rows.rejected))
    ]
    assert (again.template, again.columns.keys()) == (rows.template, rows.columns.keys())
    assert (again.candidates and list(again.candidates.texts)) == (rows.candidates and list(rows.candidates.texts))


def test_votes_are_read_again_as_they_were_written(tmp_path) -> None:
    votes = {"candidates": ["x", "y", "z"], "candidate_scores": [[3, None, 2], {"5": 1}, [1, 1]]}
    more = {"chosen": "x", "rejected": "y", "score_chosen": 3, "score_rejected": [1, 2, 2, 4]}
    rows = [{"prompt": "a"} | votes, {"prompt": "b"} | more | votes]
    given, kept = tmp_path / "given.jsonl", tmp_path / "kept.jsonl"
    given.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found, _ = read_rows(DataConfig(path=str(given), eval_fraction=0.0), votes=True)
    write_rows(kept, found, found.columns)
    again, _ = read_written(DataConfig(path=str(kept), eval_fraction=0.0, as_chat=False, json_columns=[]))
    for name, values in found.columns.items():
        np.testing.assert_array_equal(again.columns[name], values, strict=True)
    assert found.candidates is not None and again.candidates is not None
    np.testing.assert_array_equal(again.candidates.scores, found.candidates.scores)


def test_rows_that_this_library_cannot_have_written_are_refused_in_a_sentence(tmp_path) -> None:
    path = tmp_path / "kept.jsonl"
    for row, sentence in (
        ({"prompt": "a", "chosen": said("x"), "rejected": said("y")}, "make prompt, chosen and rejected the same"),
        ({"prompt": HELLO, "chosen": [{"content": "x"}], "rejected": said("y")}, "a message without a role in chosen"),
        ({"prompt": "a", "chosen": "x"}, "has no rejected"),
        ({"prompt": "a", "chosen": "x", "rejected": "y", "candidates": [said("z")]}, "candidates that are of another"),
    ):
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match=sentence):
            read_written(DataConfig(path=str(path), eval_fraction=0.0, as_chat=False, json_columns=[]))
