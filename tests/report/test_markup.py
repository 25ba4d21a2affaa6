"""What of a page is text stays text, whatever it holds."""

from __future__ import annotations

import pytest

from iwpo_fast.report.html import Html, folded, shown, tag
from iwpo_fast.report.passages import MOST, passage


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "</pre>", '"onload="x', "a & b", "&lt;"])
def test_text_is_escaped_wherever_it_stands(text: str) -> None:
    made = tag("p", text, title=text)
    assert text not in made
    assert "<script" not in made and made.count("<") == 2


def test_markup_of_ours_is_not_escaped_twice() -> None:
    assert tag("p", tag("b", "a"), " & ") == "<p><b>a</b> &amp; </p>"
    assert folded("more", Html("<i>x</i>"), unfolded=True).startswith('<details open="">')


def test_characters_that_turn_or_hide_text_are_shown_by_their_numbers() -> None:
    assert shown("a\u202eb\x00c\ud800") == r"a\u202eb\x00c\ud800"
    assert shown("one\r\n\ttwo\u200d") == "one\n    two\u200d"
    assert shown("a\u202eb").encode()


def test_a_long_text_keeps_beginning_and_end_and_says_what_is_left_out() -> None:
    made = passage("prompt", "b" + "x" * (MOST + 8) + "e")
    assert ">b" in made and "e</pre>" in made and "[… 10 characters …]" in made
    assert len(made) < MOST + 200
    assert "characters …" not in passage("prompt", "x" * MOST)
