"""A row in the columns of its source, brought to ours: the schemas that other trainers and public data sets have.

| a row has                                        | becomes                                                   |
|--------------------------------------------------|-----------------------------------------------------------|
| two answers and which is better                  | `chosen` and `rejected` (`data.columns`, `data.preferred`) |
| messages of `from` and `value` (ShareGPT)        | messages of `role` and `content`                          |
| an answer that is one message                    | a list of it                                              |
| messages as JSON text                            | the messages                                              |
| `conversations` or `messages`, and no prompt     | the prompt                                                |
| `system`, `history`                              | messages before the prompt                                |
| `ranked`, answers from the best to the worst     | `candidates` and their scores                             |
| one completion and a label                       | chosen or rejected alone (`iwpo_fast.data.unpaired`)      |
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from iwpo_fast.data.candidate_scores import side_by_side
from iwpo_fast.data.candidates import responses_of
from iwpo_fast.data.chat import is_assistants
from iwpo_fast.data.columns import TEXTS, joined_columns
from iwpo_fast.data.forms import canonical, without_prompt
from iwpo_fast.data.json_text import DIALOGUES, LISTS, JsonText, dialogue_in, speaks
from iwpo_fast.data.messages import is_dialogue
from iwpo_fast.data.preferred import Meaning, meaning_of, ordered
from iwpo_fast.data.rows import Message, contents
from iwpo_fast.data.strict_json import loads, parsed
from iwpo_fast.data.unpaired import is_single, with_label
from iwpo_fast.data.unread import ANSWERS, Unread

Row = dict[str, Any]

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
}
"""Who speaks in ShareGPT's messages."""


class Recogniser:
    """Reads rows of one source as its settings say.

    Attributes:
        means: what a value of the column `preferred` says.
        json: what of the rows is JSON text.
        unread: columns that are in no text, with the number of rows.
    """

    def __init__(self, columns: Mapping[str, str | None], preferred: Mapping[str, Any], json_text: JsonText) -> None:
        self.means: Meaning = meaning_of(preferred)
        self.json = json_text
        self._columns = columns
        self._joined = joined_columns(columns)
        self._unread = Unread(columns)
        self._seen = self._as_lists = 0

    @property
    def unread(self) -> dict[str, int]:
        return self._unread.counts

    def __call__(self, record: Mapping[str, Any], others: Mapping[str, Any]) -> Row | None:
        """The row in our columns; None for a tie of two answers.

        Args:
            record: as `self.json` gives it.
            others: columns of the source that mean nothing to us.

        Raises:
            ValueError: it has no form that is known. The message goes on from "row 1".
        """
        row = with_joined(record, others, self._joined)
        if "preferred" in self._columns or (row.get("chosen") is None and row.get("rejected") is None):
            found = self._without_sides(row)
            if found is None:
                return None
            row = found
        return self.in_columns(row, others)

    def in_columns(self, row: Row, others: Mapping[str, Any]) -> Row:
        """A row whose answers are known, with all that stands before them as its prompt."""
        row = _in_our_form(row, TEXTS)
        if row.get("ranked") is not None:
            row |= _by_rank(row)
        self._seen += 1
        self._as_lists += all(_is_list_as_text(row.get(name)) for name in ANSWERS)
        row = _asked_for(row)
        self._unread(row, others)
        return row

    def check_all(self) -> None:
        """Raise ValueError if all rows have lists as text, which then are turns and no answers."""
        if self._as_lists and self._as_lists == self._seen and self.json.is_automatic:
            raise ValueError(
                "has lists as JSON text in chosen and rejected, as all rows have: make them strings or messages, or "
                "set data.json_columns to [] if they are the answers."
            )

    def _without_sides(self, row: Row) -> Row | None:
        if any(row.get(name) is not None for name in ("first", "second")) or "preferred" in self._columns:
            return ordered(row, self.means)
        used, dialogue = dialogue_of(row)
        return with_label(row, used, dialogue) if is_single(row, dialogue) else row


def _asked_for(row: Row) -> Row:
    """The row with a prompt that holds all that stands before the answers."""
    if not row.get("prompt"):
        row.pop("prompt", None)
        used, dialogue = dialogue_of(row)
        if dialogue is not None and (_has_list(row) or all(_is_answer(row.get(name)) for name in ANSWERS)):
            row["prompt"] = _without_answer(dialogue, row)
            del row[used]
        elif isinstance(row.get("instruction"), str) and responses_of(row) is not None:
            row["prompt"] = row.pop("instruction")
    if "system" in row or "history" in row:
        if "prompt" in row and _has_both(row):  # told apart here, because the prompt has more before it afterwards
            row |= dict(zip(TEXTS, canonical(row, may_be_empty=True), strict=True))
        _put_before(row)
        prompt = row.get("prompt")
        row |= {name: without_prompt(prompt, row[name]) for name in ANSWERS if is_dialogue(row.get(name))}
    return row


def with_joined(record: Mapping[str, Any], others: Mapping[str, Any], joined: Mapping[str, list[str]]) -> Row:
    """The row with the columns that `data.columns` joins of others, as of `joined_columns`.

    Args:
        others: columns of the source that mean nothing to us, among them a `prompt` in `{prompt: prompt+input}`.

    Raises:
        ValueError: one of them is no text, or no list of scores. The message goes on from "row 1".
    """
    row = dict(record)
    for ours, parts in joined.items():
        if ours not in row:
            given = {**record, **others}
            if ours == "candidate_scores":
                row[ours] = side_by_side({part: given.get(part) for part in parts})
                continue
            row[ours] = "\n".join(text for part in parts if (text := _text_to_join(given, part)))
    return row


def _in_our_form(row: Row, names: Iterable[str]) -> Row:
    """The row with the texts of these columns, and all in lists of texts, as text or messages of ours."""
    texts = {name: _conversation(row[name], one=name != "prompt") for name in names if name in row}
    lists = {
        name: [_conversation(value, one=True) for value in row[name]]
        for name in LISTS
        if isinstance(row.get(name), list)
    }
    return row | texts | lists


def dialogue_of(row: Row) -> tuple[str, list[Message] | None]:
    """The first of the columns of whole conversations that has messages, and these."""
    for name in DIALOGUES:
        if name in row and is_dialogue(messages := _conversation(row[name], one=False)):
            return name, messages
    return "", None


def _without_answer(dialogue: list[Message], row: Row) -> list[Message]:
    """The conversation up to its last turn, if that is one of the answers, whatever white space is around it."""
    last = dialogue[-1]
    if not is_assistants(last) or last.get("tool_calls"):
        return dialogue
    _, candidates = responses_of(row) or ("", [])
    answers = [*(row.get(name) for name in ANSWERS), *candidates]
    said = {_said(answer[:1] if isinstance(answer, list) else answer) for answer in answers}
    return dialogue[:-1] if _said([last]) in said - {""} else dialogue


def _said(text: Any) -> str:
    """What a text or messages say; nothing for a list of anything else."""
    return "".join(contents(text)).strip() if isinstance(text, str) or is_dialogue(text) else ""


def _has_list(row: Row) -> bool:
    return responses_of(row) is not None and not _has_both(row)


def _conversation(value: Any, *, one: bool) -> Any:
    """Messages of any known form as ours; everything else as it is.

    Args:
        one: a single message is a list of it.
    """
    if isinstance(value, dict) and one and speaks(value):
        value = [value]
    if isinstance(value, list) and value and isinstance(value[0], dict) and "from" in value[0]:
        return [_message(turn) for turn in value]
    return value


def _is_list_as_text(value: Any) -> bool:
    """Whether a text is a list of strings as JSON or as Python source, such as the turns of one side."""
    if not isinstance(value, str) or not value.lstrip().startswith(('["', "['")):
        return False
    parts = parsed(value)
    return isinstance(parts, list) and all(isinstance(part, str | None) for part in parts)


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str | list):
        raise ValueError("has a message without from and value among such messages: give every message both.")
    if turn.get("from") == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(turn["value"])}
    if not isinstance(turn.get("from"), str) or turn["from"] not in ROLES:
        speaker = reprlib.repr(turn.get("from"))
        raise ValueError(f"has a message from {speaker}: use {', '.join(ROLES)} or function_call.")
    others = {name: value for name, value in turn.items() if name not in ("from", "value") and value is not None}
    return {"role": ROLES[turn["from"]], "content": turn["value"]} | others


def _calls(text: str) -> list[dict[str, Any]]:
    try:
        calls = loads(text)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("has a function_call that is not JSON: write it as {name, arguments}.") from None
    return [{"type": "function", "function": call} for call in (calls if isinstance(calls, list) else [calls])]


def _has_both(row: Row) -> bool:
    return all(row.get(name) is not None for name in ANSWERS)


def _is_answer(value: Any) -> bool:
    """Text, or messages that begin with the assistant's."""
    return isinstance(value, str) or (is_dialogue(value) and is_assistants(value[0]))


def _text_to_join(row: Mapping[str, Any], part: str) -> str | None:
    text = row.get(part)
    if not isinstance(text, str | None):
        raise ValueError(
            f"has a value of type {type(text).__name__} in {part}, which data.columns joins to text: make it a string."
        )
    return text


def _put_before(row: Row) -> None:
    """Put the system's text and earlier turns in front of the prompt, which becomes a conversation."""
    system, turns = row.pop("system", None) or "", _turns(row.pop("history", None))
    if not isinstance(system, str):
        raise ValueError(f"has a system text of type {type(system).__name__}: make it a string.")
    before = [{"role": "system", "content": system}] if system else []
    prompt = row.get("prompt")
    if isinstance(prompt, list) and without_prompt(turns, prompt) != prompt:  # it begins with them
        turns = []
    if isinstance(prompt, str):
        row["prompt"] = _behind(before, [*turns, {"role": "user", "content": prompt}])
    elif isinstance(prompt, list):
        row["prompt"] = _behind(before, [*turns, *prompt])
    elif all(is_dialogue(row.get(name)) for name in ANSWERS):
        row |= {name: _behind(before, [*turns, *without_prompt(turns, row[name])]) for name in ANSWERS}
    elif before or turns:
        raise ValueError(
            "has a system or history column, and no prompt that they could stand before: name the prompt in "
            "data.columns, or leave the column out, as in data.columns {system: null}."
        )


def _behind(system: list[Message], messages: list[Message]) -> list[Message]:
    if not system or not messages or messages[0].get("role") != "system":
        return [*system, *messages]
    if messages[0].get("content") == system[0]["content"]:
        return messages
    raise ValueError("has a system message and another text in its column system: keep one of them.")


def _turns(history: Any) -> list[Message]:
    """Earlier turns: messages, or couples of what the user and the assistant said."""
    with suppress(ValueError, RecursionError):
        history = loads(history) if isinstance(history, str) and history.startswith("[") else history
    if not history:
        return []
    history = _conversation(dialogue_in(history), one=False)
    if is_dialogue(history):
        return history
    if not isinstance(history, list) or not all(_is_couple(turn) for turn in history):
        raise ValueError(
            "has a history that is neither messages nor couples of question and answer: make it so, name it as the "
            "prompt, as in data.columns {prompt: history}, or leave it out, as in {history: null}."
        )
    return [
        {"role": role, "content": text}
        for turn in history
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def _is_couple(turn: Any) -> bool:
    return isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(text, str) for text in turn)


def _by_rank(row: Row) -> Row:
    ranked = row.pop("ranked")
    if not isinstance(ranked, list):
        raise ValueError(f"has ranked answers of type {type(ranked).__name__}: make them a list, the best first.")
    if row.get("candidates") is not None:
        raise ValueError("has both ranked and candidates: leave one of them out, as in data.columns {ranked: null}.")
    return {"candidates": ranked, "candidate_scores": [-float(place) for place in range(len(ranked))]}
