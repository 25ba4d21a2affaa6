"""Messages as sources bring them: as JSON text in tables, and with parts that are no text."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

MEDIA = ("image", "video", "audio", "file")
MEDIA_COLUMNS = (
    *("image", "images", "video", "videos", "audio", "audios"),
    *("image_url", "image_urls", "image_path", "image_paths", "picture", "pictures", "img"),
)


def with_messages(record: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The row with conversations in these columns as lists of messages, where they were stored as text.

    Raises:
        ValueError: a message has a part that is no text. The message goes on from "row 1".
    """
    return dict(record) | {name: _conversation(record[name], name) for name in names if name in record}


def check_is_text(columns: Sequence[str], source: str) -> None:
    """Raise ValueError if the source has columns of images, videos or sound, which no model here would see."""
    media = [name for name in columns if name in MEDIA_COLUMNS]
    if media:
        raise ValueError(
            f"{source} has the column{'s' if len(media) > 1 else ''} {', '.join(media)}, and only text is trained on: "
            "leave out the rows that need what is in there, then that column."
        )


def parsed(value: Any) -> Any:
    """What a string holds as JSON, or as Python source, which pandas writes into CSV; other values as they are."""
    if not isinstance(value, str):
        return value
    with suppress(ValueError, RecursionError):
        return json.loads(value)
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(value)
    return value


def _conversation(value: Any, name: str) -> Any:
    if isinstance(value, str):
        if value[:1] != "[" or "role" not in value:
            return value
        found = parsed(value)
        if not _are_messages(found):
            return value
        value = found
    if not isinstance(value, list):
        return value
    return [_message(parsed(one) if _is_object(one) else one, name) for one in value]


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in map(parsed, value))
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, str) and value[:1] == "{" and "role" in value


def _message(message: Any, name: str) -> Any:
    if not isinstance(message, dict):
        return message
    content = _parts(message.get("content"))
    for part in content if isinstance(content, list) else ():
        _check_part(part, name)
    changed = {} if content is message.get("content") else {"content": content}
    calls = message.get("tool_calls")
    if isinstance(calls, str) and calls:
        changed["tool_calls"] = parsed(calls)
    return _with_tools(message | changed)


def _parts(content: Any) -> Any:
    """Parts of a content that were stored as JSON text; every other content as it is."""
    if not isinstance(content, str) or not content.startswith('[{"') or '"type"' not in content:
        return content
    parts = parsed(content)
    are_parts = isinstance(parts, list) and all(isinstance(part, dict) and _is_part(part) for part in parts)
    return parts if are_parts else content


def _is_part(part: Mapping[str, Any]) -> bool:
    kind = part.get("type")
    return isinstance(kind, str) and (kind in part or any(medium in kind for medium in MEDIA))


def _with_tools(message: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's messages of one function call, as they were before there were tools, as those of tools."""
    rest = {key: value for key, value in message.items() if key != "function_call"}
    if rest.get("role") == "function":
        rest["role"] = "tool"
    if call := parsed(message.get("function_call")):
        rest["tool_calls"] = [*(rest.get("tool_calls") or []), {"type": "function", "function": call}]
    return rest


def _check_part(part: Any, name: str) -> None:
    kind = str(part.get("type", "")) if isinstance(part, dict) else ""
    if any(medium in kind for medium in MEDIA):
        raise ValueError(
            f"has a part of the type {kind} in {name}, and only text is trained on: leave such rows out, because the "
            "model would not see it."
        )
