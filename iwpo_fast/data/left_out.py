"""What a chat template does not write of the messages that it is given.

A template is a program, so it is asked: every text of a message is replaced by a marker, and what does not come out is
not written. It is asked once for every kind of message: its role, what it holds, and where in the conversation it is.
"""

from __future__ import annotations

import copy
import json
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from iwpo_fast.data.bounded import TooMuch
from iwpo_fast.data.chat import MARK, ChatTemplate, Conversation, joined, messages_of, opening_of
from iwpo_fast.data.rows import Rows, contents
from iwpo_fast.terminal import escaped

NO_TEXTS = ("role", "tool_call_id", "id", "weight", "train")
"""Keys of a message that are no texts to read."""

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
            return f"{self.key} of chat_template_kwargs"
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
    for row, conversation in _conversations(rows):
        arguments = rows.template[row] if rows.template else {}
        for kind, message in _kinds(conversation, arguments):
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


def _kinds(conversation: Conversation, arguments: dict[str, Any]) -> Iterator[tuple[Kind, int]]:
    """The kinds of text in a conversation, and a message that each is in."""
    given = json.dumps({k: v for k, v in arguments.items() if k != "tools"}, default=str) if arguments else ""
    given += "tools" if arguments.get("tools") else ""
    if arguments.get("tools"):
        yield Kind("tools", "tools", "earlier", given), 0
        if any(_described(arguments["tools"])):
            yield Kind("tools", "descriptions of tools", "earlier", given), 0
        if any(_named_parameters(arguments["tools"])):
            yield Kind("tools", "parameters of tools", "earlier", given), 0
    for name in arguments.keys() - {"tools"}:
        yield Kind("argument", name, "earlier", given), 0
    last = len(conversation) - 1
    last_user = max((i for i, message in enumerate(conversation) if message["role"] == "user"), default=-1)
    for i, message in enumerate(conversation):
        place = "answer" if i == last else "turn" if i >= last_user else "earlier"
        shape = _shape(message, is_first=i == 0)
        for key, value in message.items():
            if key not in NO_TEXTS and _holds_text(value):
                yield Kind(message["role"], key, place, given, shape), i
                if key == "content" and THOUGHT_END in "".join(contents([message])):
                    yield Kind(message["role"], "thinking", place, given, shape), i


def _shape(message: dict[str, Any], *, is_first: bool) -> tuple[object, ...]:
    """What templates look at: whether it is the first, what else it holds, one call or several, types of parts."""
    held = frozenset(key for key, value in message.items() if key not in NO_TEXTS and _holds_text(value))
    content, calls = message.get("content"), message.get("tool_calls")
    parts = frozenset(map(_type_of, content)) if isinstance(content, list) else None
    called = tuple(map(_shape_of_call, calls)) if isinstance(calls, list) else ()
    return is_first, held, parts, called


def _shape_of_call(call: Any) -> object:
    """Whether there are arguments, and under which name."""
    inner = call.get("function", call) if isinstance(call, dict) else None
    return frozenset(key for key, value in inner.items() if _holds_text(value)) if isinstance(inner, dict) else None


def _type_of(part: Any) -> str:
    return str(part.get("type")) + "".join(sorted(part)) if isinstance(part, dict) else type(part).__name__


def _holds_text(value: Any) -> bool:
    """Whether there is anything to read in it."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, list | tuple):
        return any(map(_holds_text, value))
    if isinstance(value, dict):
        return any(_holds_text(one) for name, one in value.items() if name != "type")
    return value is not None and value is not False


def _writes(chat: ChatTemplate, kind: Kind, seen: Seen) -> bool:
    """Whether the template writes every text of this kind, where it was seen first."""
    conversation, arguments = copy.deepcopy(seen.conversation), copy.deepcopy(seen.arguments)
    if kind.role == "argument":
        return _acts(chat, kind.key, conversation, arguments)
    marks: list[str] = []

    def mark(_: str) -> str:
        marks.append(f"{MARK}{len(marks)}.")
        return marks[-1]

    message = conversation[seen.message]
    if kind.key == "descriptions of tools":
        arguments["tools"] = _with_descriptions(arguments["tools"], mark)
    elif kind.key == "parameters of tools":
        marks = list(_named_parameters(arguments["tools"]))
    elif kind.role == "tools":
        arguments["tools"] = [_with_names(tool, mark) for tool in arguments["tools"]]
    elif kind.key == "thinking":
        message["content"] = f"<think>\n{mark('')}\n{THOUGHT_END}\n\nanswer"
    elif kind.key == "tool_calls":
        message["tool_calls"] = [_of_call(call, mark) for call in message["tool_calls"]]
    else:
        message[kind.key] = _replaced(message[kind.key], mark)
        if kind.key in REASONING:  # transformers fills in the other names of reasoning, which are one text
            message |= {name: message[kind.key] for name in REASONING if name in message}
    try:
        rendered = chat.render(conversation, arguments)
    except TooMuch:
        raise
    except Exception:  # such as a template that knows its tools; what it refuses of the data, it says later
        return True
    return all(text in rendered for text in marks)


def _acts(chat: ChatTemplate, name: str, conversation: Conversation, arguments: dict[str, Any]) -> bool:
    """Whether the template writes anything else where an argument is absent, or another."""
    value = arguments[name]
    if isinstance(value, list | dict) and _holds_text(value):
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
    marks: list[str] = []

    def mark(_: str) -> str:
        marks.append(f"{MARK}{len(marks)}.")
        return marks[-1]

    try:
        rendered = chat.render(conversation, arguments | {name: _replaced(arguments[name], mark)})
    except Exception:  # a template that refuses other texts reads them
        return True
    return all(text in rendered for text in marks)


def _named_parameters(tools: Any) -> Iterator[str]:
    """The names of the parameters of tools; a template that writes parameters writes these."""
    for tool in tools if isinstance(tools, list) else ():
        inner = tool.get("function", tool) if isinstance(tool, dict) else {}
        parameters = inner.get("parameters") if isinstance(inner, dict) else None
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        yield from properties if isinstance(properties, dict) else ()


def _described(value: Any) -> Iterator[str]:
    """The descriptions in tools, of themselves and of their parameters."""
    if isinstance(value, list):
        for one in value:
            yield from _described(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name == "description" and isinstance(one, str) and one.strip():
                yield one
            else:
                yield from _described(one)


def _with_descriptions(value: Any, mark: Callable[[str], str]) -> Any:
    """Tools with other descriptions."""
    if isinstance(value, list):
        return [_with_descriptions(one, mark) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: mark(one)
        if name == "description" and isinstance(one, str) and one.strip()
        else _with_descriptions(one, mark)
        for name, one in value.items()
    }


def _replaced(value: Any, mark: Callable[[str], str]) -> Any:
    """The value with each text in it replaced; of a part of a content, its text."""
    if isinstance(value, str):
        return mark(value) if value.strip() else value
    if isinstance(value, list):
        return [_replaced(one, mark) for one in value]
    if isinstance(value, dict):
        return {name: one if name == "type" else _replaced(one, mark) for name, one in value.items()}
    return value


def _of_call(call: Any, mark: Callable[[str], str]) -> Any:
    """A tool call with another name and other arguments; arguments that are JSON stay JSON."""
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return call | {"function": _of_call(call["function"], mark)}
    changed = dict(call)
    if isinstance(call.get("name"), str):
        changed["name"] = mark(call["name"])
    for name in ARGUMENTS:
        given = call.get(name)
        if isinstance(given, str) and given.strip():
            changed[name] = _replaced_text(given, mark)
        elif given is not None:
            changed[name] = _all_replaced(given, mark)
    return changed


ARGUMENTS = ("arguments", "parameters")
"""What the arguments of a tool call are called."""


def _replaced_text(given: str, mark: Callable[[str], str]) -> str:
    try:
        found = json.loads(given)
    except ValueError:
        return mark(given)
    return json.dumps(_all_replaced(found, mark))


def _all_replaced(value: Any, mark: Callable[[str], str]) -> Any:
    """Arguments with other keys, and other values, numbers too."""
    if isinstance(value, dict):
        return {mark(name): _all_replaced(one, mark) for name, one in value.items()}
    if isinstance(value, list):
        return [_all_replaced(one, mark) for one in value]
    return value if value is None or isinstance(value, bool) else mark(str(value))


def _with_names(tool: Any, mark: Callable[[str], str]) -> Any:
    """A tool with another name, which every template that writes tools writes."""
    if not isinstance(tool, dict):
        return tool
    if isinstance(tool.get("function"), dict):
        return tool | {"function": _with_names(tool["function"], mark)}
    return tool | {"name": mark(tool["name"])} if isinstance(tool.get("name"), str) else tool
