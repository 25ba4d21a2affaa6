"""Texts to score come in lists, and a text by itself is not read letter by letter."""

from __future__ import annotations

import pytest

from iwpo_fast.rewards.text_rows import rows_of_texts

TALK = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("prompts", "completions", "name"),
    [
        ("hi", "yo", "prompts"),
        (["h", "i"], "yo", "completions"),
        (TALK, TALK, "prompts"),
        ([TALK], TALK, "completions"),
    ],
)
def test_a_text_in_the_place_of_a_list_is_refused(prompts, completions, name) -> None:
    with pytest.raises(ValueError, match=rf"The {name} are one text and not a list of them: pass lists"):
        rows_of_texts(prompts, completions)


def test_lists_of_texts_and_of_conversations_are_rows() -> None:
    assert len(rows_of_texts(["hi", "ho"], ["yo", ""])) == 2
    assert len(rows_of_texts([TALK], [[{"role": "assistant", "content": "yo"}]])) == 1
