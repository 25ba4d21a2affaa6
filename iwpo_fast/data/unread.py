"""Columns whose texts stand in no text of their row: counted, or refused where one of them may be the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from iwpo_fast.data.annotators import ANNOTATOR
from iwpo_fast.data.candidates import responses_of
from iwpo_fast.data.chat import is_assistants
from iwpo_fast.data.columns import ASKED, NUMBERS, TEXTS
from iwpo_fast.data.forms import ASSISTANT, FEWEST_WORDS, HUMAN
from iwpo_fast.data.json_text import DIALOGUES, messages_in, speaks
from iwpo_fast.data.left_out import REASONING
from iwpo_fast.data.messages import is_dialogue
from iwpo_fast.data.rows import contents

ANSWERS = ("chosen", "rejected")
READ = {*TEXTS, *NUMBERS, "prompt_id", ANNOTATOR, "tools", "chat_template_kwargs"}
"""Columns that are read, or refused, wherever they stand."""
SAID_BESIDE = frozenset(("value", "tool_calls", "function_call", *REASONING))
"""What messages say beside their content."""
SPEAKERS = ("role", "from")
WITHOUT_SPACES = "\u0e00"
"""From this letter on, there are languages that write no spaces between words."""


class Unread:
    """Goes through rows whose texts are known.

    Args:
        columns: `DataConfig.columns`.

    Attributes:
        counts: columns that are in no text, with the number of rows.
    """

    def __init__(self, columns: Mapping[str, str | None]) -> None:
        self.counts: dict[str, int] = {}
        self._needs_prompt = columns.get("prompt", "") is not None
        self._left_out = {ours for ours, theirs in columns.items() if theirs is None}
        self._used = {part for theirs in columns.values() if theirs for part in (theirs, *theirs.split("+"))}

    def __call__(self, row: Mapping[str, Any], others: Mapping[str, Any]) -> None:
        """Count what a row loses.

        Args:
            row: in our columns, with the prompt if it has one.
            others: columns of the source that mean nothing to us.

        Raises:
            ValueError: it has no prompt, and what is lost may be one. The message goes on from "row 1".
        """
        given = {name: value for name, value in row.items() if name not in READ and name not in self._used}
        given |= {name: value for name, value in others.items() if name not in self._left_out}
        given = {name: value for name, value in given.items() if value and any(strings_in(value))}
        if not given:
            return
        form, texts = _texts_of(row)
        lost = {name: value for name, value in given.items() if not _is_in(value, texts.for_column(name))}
        if texts.every and texts.prompt is None and self._needs_prompt:
            _check_no_prompt(row, {name: value for name, value in lost.items() if name != form})
        for name in lost:
            what = f"{name} beside its responses" if name == form else name
            self.counts[what] = self.counts.get(what, 0) + 1


class _Texts(NamedTuple):
    """What stands in the prompt, if there is one, and in all texts of a row."""

    prompt: list[str] | None
    every: list[str]

    def for_column(self, name: str) -> list[str]:
        """Where the text of a column must stand: beside a prompt it does not help that an answer says a context."""
        return self.every if self.prompt is None or name not in ASKED else self.prompt


def strings_in(value: Any) -> Iterator[str]:
    """All text in a value, whatever its form."""
    if isinstance(value, str):
        found = messages_in(value)
        if found is None or isinstance(found, ValueError):
            yield value.strip()
        else:
            yield from strings_in(found)
    elif isinstance(value, dict):
        yield from _strings_in_object(value)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from strings_in(part)


def _strings_in_object(value: dict[str, Any]) -> Iterator[str]:
    """Of a message what it says; of any other object, also of one that keeps its text in another form, all."""
    is_message = speaks(value) and any(value.get(name) for name in ("content", *SAID_BESIDE))
    if is_message:
        said = [text.strip() for text in contents([value])]
        yield from said or strings_in(value.get("content"))
    for name, part in value.items():
        if name in SAID_BESIDE if is_message else name not in SPEAKERS:
            yield from strings_in(part)


def _texts_of(row: Mapping[str, Any]) -> tuple[str, _Texts]:
    """The column of candidates, if there is one, and all texts of a row."""
    form, responses = responses_of(row) or ("", [])
    prompt = list(strings_in(row["prompt"])) if row.get("prompt") else None
    answers = [text for name in ANSWERS if row.get(name) for text in strings_in(row[name])]
    return form, _Texts(prompt, [*(prompt or ()), *answers, *strings_in(responses)])


def _check_no_prompt(row: Mapping[str, Any], lost: Mapping[str, Any]) -> None:
    """Raise ValueError if one of the columns may hold the prompt of a row that has none."""
    begins = _begins_with_a_prompt(row)
    asked = [name for name, value in lost.items() if name in ASKED or (not begins and _asks(name, value))]
    if asked:
        raise ValueError(
            f"has no prompt and text in {', '.join(asked)}: name the prompt, as in data.columns "
            f"{{prompt: {'+'.join(asked)}}}, or set data.columns {{prompt: null}} if chosen and rejected begin with it."
        )


def _begins_with_a_prompt(row: Mapping[str, Any]) -> bool:
    """Whether the answers are dialogues, which hold what they answer."""
    answers = [row.get(name) for name in ANSWERS]
    if all(isinstance(answer, str) and answer.startswith(HUMAN) and ASSISTANT in answer for answer in answers):
        return True
    return all(isinstance(answer, list) and is_dialogue(answer) and not is_assistants(answer[0]) for answer in answers)


def _asks(name: str, value: Any) -> bool:
    """Whether a text reads like a prompt and not like a label, such as the name of a model."""
    return name in DIALOGUES or any("?" in text or _words(text) >= FEWEST_WORDS for text in strings_in(value))


def _words(text: str) -> int:
    return len(text.split()) + sum(letter >= WITHOUT_SPACES and letter.isalpha() for letter in text)


def _is_in(value: Any, texts: list[str]) -> bool:
    """Whether all that a value says is said in the texts."""
    return all(any(_stands_in(part, text) for text in texts) for part in strings_in(value))


def _stands_in(part: str, text: str) -> bool:
    """Whether a part stands in a text from the beginning of a word to the end of one; an empty one does."""
    start = text.find(part)
    while start >= 0 and (_parts_a_word(text, start) or _parts_a_word(text, start + len(part))):
        start = text.find(part, start + 1)
    return start >= 0


def _parts_a_word(text: str, place: int) -> bool:
    """Whether letters that stand in front of the place and behind it may be of one word."""
    beside = text[place - 1 : place + 1] if place else ""
    return len(beside) == 2 and all(letter.isalnum() and letter < WITHOUT_SPACES for letter in beside)
