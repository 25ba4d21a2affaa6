"""Prompts from a file of their own: which texts, of which kind, with how much room, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from iwpo_fast.config import DataConfig
from iwpo_fast.data.prompts import encoded_prompts, read_prompts, with_room_behind
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.models.tiny import train_tokenizer

TOKENIZER = train_tokenizer(["one two three four five six"], 300)
CHAT: Text = [{"role": "user", "content": "one"}]


def rows_like(prompt: Text) -> Rows:
    return Rows("pairs.jsonl", np.array([1]), [prompt], [prompt], [prompt])


def written(folder: Path, *rows: dict) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: str | list[str], like: Text = "one") -> Rows:
    return read_prompts(path, "sampled_kl.prompts", rows_like(like))


def test_the_column_prompt_is_read_whatever_else_is_there(tmp_path) -> None:
    path = written(tmp_path, {"prompt": "one", "chosen": "x", "task": 3}, {"prompt": "two"}, {"prompt": "one"})
    assert list(read(path).prompt) == ["one", "two", "one"] and list(read([path]).prompt)[1] == "two"


def test_beside_conversations_plain_prompts_become_questions(tmp_path) -> None:
    path = written(tmp_path, {"prompt": "one"}, {"prompt": CHAT})
    assert [prompt for prompt in read(path, CHAT).prompt] == [CHAT, CHAT]


def test_tokens_are_those_that_a_pair_would_have_and_equal_prompts_are_one(tmp_path) -> None:
    rows = read(written(tmp_path, {"prompt": "one two"}, {"prompt": "three"}, {"prompt": "one two"}))
    found = encoded_prompts(rows, TOKENIZER, DataConfig("x"), room=5, setting="max_new_tokens")
    assert [TOKENIZER.decode(found[row]) for row in range(len(found))] == ["one two", "three"]
    chat = read(written(tmp_path, {"prompt": "one"}), CHAT)
    asked = encoded_prompts(chat, TOKENIZER, DataConfig("x"), room=5, setting="max_new_tokens")
    assert TOKENIZER.decode(asked[0]).endswith("assistant<|im_sep|>")


def test_prompts_leave_room_as_the_truncation_says() -> None:
    prompts = Ragged.from_rows([[1, 2, 3, 4], [5], [1, 2, 3, 4]])
    cut = with_room_behind(prompts, TOKENIZER, DataConfig("x", max_length=8), room=5, setting="s")
    assert [cut[row].tolist() for row in range(len(cut))] == [[2, 3, 4], [5]]
    dropping = DataConfig("x", max_length=8, truncation="drop")
    left = with_room_behind(prompts, TOKENIZER, dropping, room=5, setting="s")
    assert [left[row].tolist() for row in range(len(left))] == [[5]]
    with pytest.raises(ValueError, match=r"No prompt leaves room for the 8 tokens of s: raise data\.max_length from 8"):
        with_room_behind(prompts, TOKENIZER, dropping, room=8, setting="s")


@pytest.mark.parametrize(
    ("rows", "like", "sentence"),
    [
        ([], "one", "prompts.jsonl"),
        ([{"prompt": "one"}, {"text": "two"}], "one", "In prompts.jsonl, row 2 has no prompt: add a column prompt of"),
        ([{"prompt": 3}], "one", "row 1 has no prompt"),
        ([{"prompt": ""}], "one", "row 1 has no prompt"),
        ([{"prompt": [{"content": "one"}]}], CHAT, "row 1 has a message without a role in prompt"),
        ([{"prompt": "one"}, {"prompt": CHAT}], "one", "row 2 is a conversation, and pairs.jsonl is plain text"),
    ],
)
def test_what_is_no_prompt_is_one_sentence(tmp_path, rows, like, sentence) -> None:
    with pytest.raises(ValueError, match=sentence) as said:
        read(written(tmp_path, *rows), like)
    assert "\n" not in str(said.value)


def test_a_file_that_is_not_there_is_named_by_its_setting() -> None:
    with pytest.raises(ValueError, match=r"sampled_kl\.prompts nowhere\.jsonl"):
        read("nowhere.jsonl")
