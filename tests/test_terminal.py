"""Text of others on a terminal: nothing in it acts, and what is shown says what it is."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from iwpo_fast.terminal import ACTS, JOINERS, escaped, escaped_lines, is_text


@given(st.text(st.characters(), max_size=40))
def test_no_character_acts_and_a_second_time_changes_nothing(text) -> None:
    shown = escaped(text)
    assert not [one for one in shown if unicodedata.category(one) in ACTS and one not in JOINERS]
    assert escaped(shown) == shown


def test_characters_are_shown_by_their_number_and_words_as_they_are() -> None:
    assert escaped("\x1b[2J\x07 caf\u00e9 \u202e\ud800") == "\\x1b[2J\\x07 caf\u00e9 \\u202e\\ud800"
    assert escaped("a\nb") == "a\\nb"
    assert escaped_lines("a\n\x1b[b") == "a\n\\x1b[b"
    assert (
        escaped("\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")
        == "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    )


def test_half_a_character_is_found_wherever_it_stands() -> None:
    whole = {"a": ["b", ("c", {"d": "\U0001f600"})], "e": None, "f": 1}
    assert is_text(whole)
    for broken in ("\ud800", ["x", "\udfff"], {"a": {"b": ("\ud83d",)}}, {"\udc00": 1}):
        assert not is_text(broken)
