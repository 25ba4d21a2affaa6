"""Styled text in the cells of a terminal: escapes, widths, wrapping, colour."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from iwpo_fast.terminal import escaped

COLOURS = {"plain": "", "trained": "32", "special": "35", "note": "33", "name": "1"}
"""SGR codes of styles."""

NEW_LINE = "↵"
OPENING, CLOSING = "«", "»"
"""Around what is trained."""
BREAK_BEHIND, BREAK_BEFORE = f" {NEW_LINE}›", "‹"
WIDEST, ELSEWHERE = 120, 100
"""Cells of a line: at most, and where no terminal says how many it has."""


class Span(NamedTuple):
    text: str
    style: str = "plain"


def terminal_width() -> int:
    return max(40, min(WIDEST, shutil.get_terminal_size((ELSEWHERE, 0)).columns))


def terminal_has_colour() -> bool:
    """Standard output is a terminal, and https://no-color.org does not ask for none."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def visible(text: str) -> str:
    """The same without a character that a terminal would act on: new lines as an arrow, others by their number."""
    return NEW_LINE.join(map(escaped, text.split("\n")))


def cells(text: str) -> int:
    """Columns of a terminal that the text takes."""
    return sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrapped(spans: Sequence[Span], width: int, *, at_new_lines: bool) -> Iterator[list[Span]]:
    """The lines of at most `width` cells, broken at a space or a mark in their last third if there is one.

    Args:
        at_new_lines: break behind every new line of the text too.
    """
    characters = [(character, style) for text, style in spans for character in text]
    start = 0
    while start < len(characters):
        some = characters[start : start + 2 * width]
        end = _end_of_line([character for character, _ in some], width, at_new_lines)
        yield [
            Span("".join(character for character, _ in run), style)
            for style, run in groupby(some[:end], key=lambda item: item[1])
        ]
        start += end


def _end_of_line(text: list[str], width: int, at_new_lines: bool) -> int:
    """How many characters go into the line."""
    if at_new_lines and NEW_LINE in text:
        behind = text.index(NEW_LINE) + 1
        text = text[: behind + (text[behind : behind + 1] == [CLOSING])]
    used, end = 0, 0
    while end < len(text) and (used := used + _cells(text[end])) <= width:
        end += 1
    if end == len(text):
        return end
    breaks = [i for i in range(max(1, 2 * end // 3), end + 1) if text[i - 1] in BREAK_BEHIND or text[i] in BREAK_BEFORE]
    return breaks[-1] if breaks else max(end, 1)


def painted(spans: Sequence[Span], *, colour: bool) -> str:
    return "".join(
        f"\x1b[{COLOURS[style]}m{text}\x1b[0m" if colour and COLOURS[style] else text for text, style in spans
    )


def printable(line: str) -> str:
    """What standard output can write: characters that its encoding lacks by their number."""
    encoding = sys.stdout.encoding or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)
