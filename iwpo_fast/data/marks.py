"""Messages, calls, tools and arguments with a mark in the place of each text, to see what a chat template writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from iwpo_fast.data.chat import MARK

Mark = Callable[[str], str]
ARGUMENTS = ("arguments", "parameters")
"""What the arguments of a tool call are called."""


class Marks:
    """Marks that were put in the place of texts."""

    def __init__(self) -> None:
        self._put: list[str] = []

    def __call__(self, _: str) -> str:
        """Another mark for a text."""
        self._put.append(f"{MARK}{len(self._put)}.")
        return self._put[-1]

    def all_in(self, rendered: str) -> bool:
        return all(mark in rendered for mark in self._put)


def holds_text(value: Any) -> bool:
    """Whether there is anything to read in it."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, list | tuple):
        return any(map(holds_text, value))
    if isinstance(value, dict):
        return any(holds_text(one) for name, one in value.items() if name != "type")
    return value is not None and value is not False


def replaced(value: Any, mark: Mark) -> Any:
    """The value with each text in it replaced; of a part of a content, its text."""
    if isinstance(value, str):
        return mark(value) if value.strip() else value
    if isinstance(value, list):
        return [replaced(one, mark) for one in value]
    if isinstance(value, dict):
        return {name: one if name == "type" else replaced(one, mark) for name, one in value.items()}
    return value


def of_call(call: Any, mark: Mark) -> Any:
    """A tool call with another name and other arguments; arguments that are JSON stay JSON."""
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return call | {"function": of_call(call["function"], mark)}
    changed = dict(call)
    for name in ("name", "function"):  # some write the name itself as the function, which few templates read
        if isinstance(call.get(name), str):
            changed[name] = mark(call[name])
    for name in ARGUMENTS:
        given = call.get(name)
        if isinstance(given, str) and given.strip():
            changed[name] = _replaced_text(given, mark)
        elif given is not None:
            changed[name] = _all_replaced(given, mark)
    return changed


def _replaced_text(given: str, mark: Mark) -> str:
    try:
        found = json.loads(given)
    except ValueError:
        return mark(given)
    return json.dumps(_all_replaced(found, mark))


def _all_replaced(value: Any, mark: Mark) -> Any:
    """Arguments with other keys, and other values, numbers too."""
    if isinstance(value, dict):
        return {mark(name): _all_replaced(one, mark) for name, one in value.items()}
    if isinstance(value, list):
        return [_all_replaced(one, mark) for one in value]
    return value if value is None or isinstance(value, bool) else mark(str(value))


def with_names(tool: Any, mark: Mark) -> Any:
    """A tool with another name, which every template that writes tools writes."""
    if not isinstance(tool, dict):
        return tool
    if isinstance(tool.get("function"), dict):
        return tool | {"function": with_names(tool["function"], mark)}
    return tool | {"name": mark(tool["name"])} if isinstance(tool.get("name"), str) else tool


def described(value: Any) -> Iterator[str]:
    """The descriptions in tools, of themselves and of their parameters."""
    if isinstance(value, list):
        for one in value:
            yield from described(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name == "description" and isinstance(one, str) and one.strip():
                yield one
            else:
                yield from described(one)


def with_descriptions(value: Any, mark: Mark) -> Any:
    """Tools with other descriptions."""
    if isinstance(value, list):
        return [with_descriptions(one, mark) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: mark(one)
        if name == "description" and isinstance(one, str) and one.strip()
        else with_descriptions(one, mark)
        for name, one in value.items()
    }


def has_parameters(tool: Any) -> bool:
    """Whether a tool names parameters, which a template that writes parameters writes."""
    inner = tool.get("function", tool) if isinstance(tool, dict) else None
    parameters = inner.get("parameters") if isinstance(inner, dict) else None
    return isinstance(parameters, dict) and bool(parameters.get("properties"))


def with_parameters(tool: Any, mark: Mark) -> Any:
    """A tool whose parameters have other names."""
    if not has_parameters(tool):
        return tool
    if isinstance(tool.get("function"), dict):
        return tool | {"function": with_parameters(tool["function"], mark)}
    given = tool["parameters"]["properties"]
    if not isinstance(given, dict):
        return tool
    return tool | {"parameters": tool["parameters"] | {"properties": {mark(name): one for name, one in given.items()}}}
