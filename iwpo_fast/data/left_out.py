"""What a chat template does not write of the messages that it is given.

A template is a program, so it is asked: every text of a message is replaced by a marker, and what does not come out is
not written. It is asked once for every kind of message: its role, what it holds, and where in the conversation it is.
"""

from __future__ import annotations

import copy
import json
from array import array
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from iwpo_fast.data.bounded import TooMuch
from iwpo_fast.data.chat import MARK, ChatTemplate, Conversation, joined, messages_of, opening_of
from iwpo_fast.data.marks import (
    Marks,
    described,
    has_parameters,
    holds_text,
    of_call,
    replaced,
    with_descriptions,
    with_names,
    with_parameters,
)
from iwpo_fast.data.rows import Rows, contents
from iwpo_fast.terminal import escaped

NO_TEXTS = ("role", "tool_call_id", "id", "weight", "train")
"""Keys of a message that are no texts to read."""

MOST_SHAPES = 16
"""Values of one argument of a template that are tried."""

REASONING = ("reasoning_content", "reasoning", "thinking")
THOUGHT_END = "</think>"


class Kind(NamedTuple):
    """A sort of text in conversations.

    Attributes:
        role: whose message it is in; `tools` for the tools beside the messages, `argument` for what else is there.
        key: the key of the message that holds it; `thinking` for what stands before `</think>` in a content.
        place: `answer` in the last message, `turn` behind the last message of the user, `earlier`.
        arguments: what else the template is given, because it may take another way then.
        shape: of its message, for the same reason: see `_shape`.
    """

    role: str
    key: str
    place: str
    arguments: str
    shape: tuple[object, ...] = ()

    @property
    def what(self) -> str:
        """In words."""
        if self.role == "tools":
            return self.key
        if self.role == "argument":
            return escaped(f"{self.key} of chat_template_kwargs")
        where = {"answer": "the answer", "turn": "the last turn", "earlier": "earlier turns"}[self.place]
        if self.key == "thinking":
            return f"the reasoning before {THOUGHT_END} in {where}"
        if self.key in (*REASONING, "tool_calls"):
            return f"the {self.key} of {where}"
        return escaped(f"the {self.key} of messages of the role {self.role}")

    @property
    def is_needed(self) -> bool:
        """Whether an answer, or a whole message, is lost with it."""
        if self.role == "argument":
            return False
        in_answer = self.place == "answer" and self.key in ("thinking", *REASONING)
        return self.key in ("content", "tool_calls") or in_answer


class Seen(NamedTuple):
    """Where a kind was seen first, and the rows that it is in, some of them more than once."""

    conversation: Conversation
    message: int
    arguments: dict[str, Any]
    rows: array[int]


def left_out(rows: Rows, chat: ChatTemplate) -> dict[Kind, np.ndarray]:
    """What the template does not write, and int64 the rows that hold it."""
    return {kind: np.unique(np.array(seen.rows)) for kind, seen in _seen(rows).items() if not _writes(chat, kind, seen)}


def left_out_error(found: dict[Kind, np.ndarray], rows: Rows) -> ValueError:
    """The sentence about rows that lose an answer or a message."""
    concerned = np.unique(np.concatenate(list(found.values())))
    others = f" (the first of {len(concerned)})" if len(concerned) > 1 else ""
    what = list(dict.fromkeys(kind.what for kind in found))
    return ValueError(
        f"{rows.where(concerned[0])}{others} has what the chat template does not write, "
        f"{' and '.join(what)}: set data.chat_template to one that writes it, take it out of the data, or set "
        "data.on_text_left_out to say."
    )


def _seen(rows: Rows) -> dict[Kind, Seen]:
    found: dict[Kind, Seen] = {}
    shapes = _Shapes()
    for row, conversation in _conversations(rows):
        arguments = rows.template[row] if rows.template else {}
        for kind, message in _kinds(conversation, arguments, shapes(arguments)):
            seen = found.get(kind)
            if seen is None or len(conversation) > len(seen.conversation):  # the longest, which loses most
                found[kind] = Seen(conversation, message, arguments, array("q") if seen is None else seen.rows)
            concerned = found[kind].rows
            if not concerned or concerned[-1] != row:
                concerned.append(row)
    return found


def _conversations(rows: Rows) -> Iterator[tuple[int, Conversation]]:
    """Every prompt with each of its answers, and the row."""
    for row, texts in enumerate(zip(rows.prompt, rows.chosen, rows.rejected, strict=True)):
        prompt, *answers = map(messages_of, texts)
        opening = opening_of(prompt, answers)
        for answer in answers:
            yield row, joined(prompt, answer, opening)
    candidates = rows.candidates
    for row, text in zip(candidates.row.tolist(), candidates.texts, strict=True) if candidates else ():
        prompt, answer = messages_of(rows.prompt[row]), messages_of(text)
        yield row, joined(prompt, answer, opening_of(prompt, [answer]))


class _Shapes:
    """What a template may take another way for among the arguments of rows: their values, such as a level of effort,
    and the structure of lists and objects. Of an argument with many values, such as a date, further ones are alike."""

    def __init__(self) -> None:
        self._known: defaultdict[str, set[str]] = defaultdict(set)

    def __call__(self, arguments: dict[str, Any]) -> str:
        return " ".join(f"{name}={self._shape(name, value)}" for name, value in sorted(arguments.items()))

    def _shape(self, name: str, value: Any) -> str:
        known = self._known[name]
        shape = json.dumps(_structure(value) if isinstance(value, list | dict) else value, default=str)
        if len(known) < MOST_SHAPES:
            known.add(shape)
        return shape if shape in known else type(value).__name__


def _structure(value: Any) -> Any:
    """Keys, and where there is text, of a value that may be nested."""
    if isinstance(value, dict):
        return {key: _structure(one) for key, one in sorted(value.items())}
    if isinstance(value, list):
        return sorted({json.dumps(_structure(one)) for one in value})
    return holds_text(value)


def _kinds(conversation: Conversation, arguments: dict[str, Any], given: str) -> Iterator[tuple[Kind, int]]:
    """The kinds of text in a conversation, and a message that each is in.

    Args:
        given: the shape of the arguments.
    """
    if arguments.get("tools"):
        yield Kind("tools", "tools", "earlier", given), 0
        if any(described(arguments["tools"])):
            yield Kind("tools", "descriptions of tools", "earlier", given), 0
        if any(map(has_parameters, arguments["tools"])):
            yield Kind("tools", "parameters of tools", "earlier", given), 0
    for name in arguments.keys() - {"tools"}:
        yield Kind("argument", name, "earlier", given), 0
    last = len(conversation) - 1
    last_user = max((i for i, message in enumerate(conversation) if message["role"] == "user"), default=-1)
    for i, message in enumerate(conversation):
        place = "answer" if i == last else "turn" if i >= last_user else "earlier"
        shape = _shape(message, is_first=i == 0)
        for key, value in message.items():
            if key not in NO_TEXTS and holds_text(value):
                yield Kind(message["role"], key, place, given, shape), i
                if key == "content" and THOUGHT_END in "".join(contents([message])):
                    yield Kind(message["role"], "thinking", place, given, shape), i


def _shape(message: dict[str, Any], *, is_first: bool) -> tuple[object, ...]:
    """What templates look at: whether it is the first, what else it holds, one call or several, types of parts."""
    held = frozenset(key for key, value in message.items() if key not in NO_TEXTS and holds_text(value))
    content, calls = message.get("content"), message.get("tool_calls")
    parts = frozenset(map(_type_of, content)) if isinstance(content, list) else None
    called = frozenset(map(_shape_of_call, calls)) if isinstance(calls, list) else frozenset()
    return is_first, held, parts, called, isinstance(calls, list) and len(calls) > 1


def _shape_of_call(call: Any) -> object:
    """Whether there are arguments, and under which name."""
    inner = call.get("function", call) if isinstance(call, dict) else None
    return frozenset(key for key, value in inner.items() if holds_text(value)) if isinstance(inner, dict) else None


def _type_of(part: Any) -> str:
    return str(part.get("type")) + "".join(sorted(part)) if isinstance(part, dict) else type(part).__name__


def _writes(chat: ChatTemplate, kind: Kind, seen: Seen) -> bool:
    """Whether the template writes every text of this kind, in the longest conversation that has it."""
    conversation, arguments = copy.deepcopy(seen.conversation), copy.deepcopy(seen.arguments)
    if kind.role == "argument":
        return _acts(chat, kind.key, conversation, arguments)
    mark = Marks()
    message, are_tools = conversation[seen.message], kind.role == "tools" and "tools" in arguments  # a key may be tools
    if are_tools and kind.key == "descriptions of tools":
        arguments["tools"] = with_descriptions(arguments["tools"], mark)
    elif are_tools and kind.key == "parameters of tools":
        arguments["tools"] = [with_parameters(tool, mark) for tool in arguments["tools"]]
    elif are_tools and kind.key == "tools":
        arguments["tools"] = [with_names(tool, mark) for tool in arguments["tools"]]
    elif kind.key == "thinking":
        message["content"] = f"<think>\n{mark('')}\n{THOUGHT_END}\n\nanswer"
    elif kind.key == "tool_calls":
        message["tool_calls"] = [of_call(call, mark) for call in message["tool_calls"]]
    else:
        message[kind.key] = replaced(message[kind.key], mark)
        if kind.key in REASONING:  # transformers fills in the other names of reasoning, which are one text
            message |= {name: message[kind.key] for name in REASONING if name in message}
    try:
        rendered = chat.render(conversation, arguments)
    except TooMuch:
        raise
    except Exception:  # such as a template that knows its tools; what it refuses of the data, it says later
        return True
    return mark.all_in(rendered)


def _acts(chat: ChatTemplate, name: str, conversation: Conversation, arguments: dict[str, Any]) -> bool:
    """Whether the template writes anything else where an argument is absent, or another."""
    value = arguments[name]
    if isinstance(value, list | dict) and holds_text(value):
        return _writes_argument(chat, name, conversation, arguments)
    other = not value if isinstance(value, bool) else f"{MARK}0."
    others = [{key: given for key, given in arguments.items() if key != name}, arguments | {name: other}]

    def written(given: dict[str, Any]) -> tuple[str, str]:
        return chat.render(conversation, given), chat.render(conversation[:-1], given, ask=True)

    try:
        return any(written(given) != written(arguments) for given in others)
    except TooMuch:
        raise
    except Exception:  # a template that refuses another value reads it
        return True


def _writes_argument(chat: ChatTemplate, name: str, conversation: Conversation, arguments: dict[str, Any]) -> bool:
    """Whether the template writes every text in an argument, such as documents."""
    mark = Marks()
    try:
        rendered = chat.render(conversation, arguments | {name: replaced(arguments[name], mark)})
    except TooMuch:
        raise
    except Exception:  # a template that refuses other texts reads them
        return True
    return mark.all_in(rendered)
