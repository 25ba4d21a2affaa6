"""Pairs as lines for people: text of prompt and completions, with special, trained and cut tokens marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from iwpo_fast.preview.look import Look, Part
from iwpo_fast.preview.screen import (
    CLOSING,
    NEW_LINE,
    OPENING,
    Span,
    cells,
    painted,
    printable,
    terminal_has_colour,
    terminal_width,
    visible,
    wrapped,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LINES_OF_A_PART = 2
"""Lines of a prompt or a completion of which not all is shown."""

INDENT = 11
SPACE = "␣"


def preview_lines(
    looks: Sequence[Look],
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    *,
    full: bool = False,
    width: int | None = None,
    colour: bool | None = None,
) -> list[str]:
    """What the model reads of these pairs.

    Args:
        source: where they were read from.
        full: show all of the texts, not their beginnings and ends.
        width: cells of a line; None for those of the terminal.
        colour: None for colour on a terminal.
    """
    width = terminal_width() if width is None else width
    colour = terminal_has_colour() if colour is None else colour
    legend = [
        Span(f"preview of {source}: "),
        Span(f"{OPENING}trained{CLOSING}", "trained"),
        Span(" "),
        Span("‹special token›", "special"),
    ]
    lines = list(wrapped([*legend, Span(f" {NEW_LINE} new line")], width, at_new_lines=False))
    for look in looks:
        lines += _lines_of(look, _Reader(tokenizer), width, full=full)
    return [printable(painted(line, colour=colour)).rstrip() for line in lines]


def _lines_of(look: Look, reader: _Reader, width: int, *, full: bool) -> Iterator[list[Span]]:
    name = look.name if look.name.startswith("row") else f"{look.name}, {look.place}"
    if name.startswith("row") and not look.place.startswith("row"):
        name += f", which is {look.place}"
    heading = [Span(name, "name"), Span(f": {_numbers(look)}")]
    for i, line in enumerate(wrapped(heading, width - 2, at_new_lines=False)):
        yield [Span("  "), *line] if i else line
    if look.left_out is not None:
        yield [Span(f"  left out: {look.left_out}", "note")]
    indent = max(INDENT, *(len(part_name) + 3 for part_name in look.parts))
    room = width - indent
    for part_name, part in look.parts.items():
        spans = reader.all_of(part) if full else reader.ends_of(part, room * LINES_OF_A_PART)
        for i, line in enumerate(wrapped(_with_visible_ends(spans), room, at_new_lines=full)):
            yield [Span(f"  {'' if i else part_name:{indent - 2}}"), *line]


def _with_visible_ends(spans: list[Span]) -> list[Span]:
    """A space at the end of a prompt, which changes its tokens, can be seen."""
    if not spans or not spans[-1].text.endswith(" "):
        return spans
    text, style = spans[-1]
    bare = text.rstrip(" ")
    return [*spans[:-1], Span(bare + SPACE * (len(text) - len(bare)), style)]


def _numbers(look: Look) -> str:
    """Numbers of tokens, weight and label, and what else the data bring."""
    tokens = ", ".join(f"{name} {_tokens(part)}" for name, part in look.parts.items())
    columns = ", ".join(f"{name} {_number(value)}" for name, value in look.columns.items())
    return f"{tokens} tokens; {columns}" if tokens else columns


def _tokens(part: Part) -> str:
    total = len(part.ids) + part.cut
    return f"{len(part.ids):,} of {total:,}" if part.cut else f"{total:,}"


def _number(value: np.ndarray) -> str:
    value = value + 0.0  # no -0
    if value.ndim:
        return "[" + ", ".join("null" if np.isnan(entry) else f"{entry:.4g}" for entry in value) + "]"
    return f"{value:.4g}"


class _Reader:
    """Writes tokens as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self.special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}

    def all_of(self, part: Part) -> list[Span]:
        return self._spans(part, 0, len(part.ids))

    def ends_of(self, part: Part, room: int) -> list[Span]:
        """Beginning and end, in so many cells, with the number of tokens that stand between."""
        n = len(part.ids)
        if n <= room and _cells_of(whole := self.all_of(part)) <= room:
            return whole
        room -= len(f" [… {n:,} tokens …] ")
        head = self._longest(part, 2 * room // 3, from_end=False)
        tail = self._longest(part, room - 2 * room // 3, from_end=True)
        first, last = self._spans(part, 0, head), self._spans(part, n - tail, n)
        if head and tail and part.trained[head - 1 : n - tail + 1].all():  # then one mark goes around both
            first, last = first[:-1], last[1:]
        return [*first, Span(f" [… {n - head - tail:,} tokens …] ", "note"), *last]

    def _longest(self, part: Part, room: int, *, from_end: bool) -> int:
        """How many tokens of the beginning or the end fit, of whole characters."""
        n = len(part.ids)
        for count in range(min(room, n), 0, -1):
            span = (n - count, n) if from_end else (0, count)
            text = self._text(part, *span)
            broken = text.startswith("\ufffd") if from_end else text.endswith("\ufffd")
            if not broken and _cells_of(self._spans(part, *span)) <= room:
                return count
        return 0

    def _spans(self, part: Part, start: int, stop: int) -> list[Span]:
        """Tokens `start` to `stop`, with the marks of what is trained, special and cut."""
        spans: list[Span] = []
        kinds = [
            (bool(part.trained[i]), int(part.ids[i]) in self.special, i >= part.cut_at) for i in range(start, stop)
        ]
        place, was_trained = start, False
        for (trained, special, _), run in groupby(kinds):
            spans += _cut(part, place)
            spans += _mark(was_trained, trained)
            end = place + len(list(run))
            text = visible(self._text(part, place, end))
            spans.append(Span(f"‹{text}›", "special") if special else Span(text, "trained" if trained else "plain"))
            place, was_trained = end, trained
        return [*spans, *_mark(was_trained, False), *(_cut(part, stop) if stop == len(part.ids) else [])]

    def _text(self, part: Part, start: int, stop: int) -> str:
        """Tokens as they read behind the token before them: some decoders drop the space of a first word."""
        before = [*part.before[-1:].tolist(), *part.ids[:start].tolist()][-1:]
        first, both = self._decode(before), self._decode(before + part.ids[start:stop].tolist())
        return both[len(first) :] if both.startswith(first) else self._decode(part.ids[start:stop].tolist())

    def _decode(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


def _cells_of(spans: Sequence[Span]) -> int:
    return sum(cells(text) for text, _ in spans)


def _cut(part: Part, place: int) -> list[Span]:
    return [Span(f"[{part.cut:,} tokens cut]", "note")] if part.cut and place == part.cut_at else []


def _mark(before: bool, after: bool) -> list[Span]:
    """Where trained tokens begin or end."""
    return [] if before == after else [Span(OPENING if after else CLOSING, "trained")]
