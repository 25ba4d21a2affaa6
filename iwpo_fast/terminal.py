"""Text of others, such as of rows and names of files, on a terminal."""

from __future__ import annotations

import unicodedata
from typing import Any

ACTS = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of characters that a terminal acts on, or that no terminal shows."""
JOINERS = "\u200c\u200d"
"""Characters of these categories that words of some languages and many pictures need."""


def escaped(text: str) -> str:
    r"""The same with every character that a terminal would act on by its number, such as \x1b; new lines too."""
    return text if text.isascii() and text.isprintable() else "".join(map(_escaped, text))


def escaped_lines(text: str) -> str:
    """As `escaped`, except that new lines stay what they are."""
    return "\n".join(map(escaped, text.split("\n")))


def is_text(value: Any) -> bool:
    """Whether all text in a value, in lists and mappings too, is made of whole characters.

    JSON and YAML can write half of a surrogate pair, and a name of a file that is no UTF-8 becomes such. No file and no
    tokenizer takes it.
    """
    if isinstance(value, str):
        return value.isascii() or _is_encodable(value)
    if isinstance(value, dict):
        return all(is_text(key) and is_text(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_text, value))
    return True


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(character: str) -> str:
    if unicodedata.category(character) in ACTS and character not in JOINERS:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character
