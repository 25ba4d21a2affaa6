"""Messages as sources bring them: with calls as OpenAI wrote them, and with parts that are no text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from iwpo_fast.data.json_text import MEDIA
from iwpo_fast.data.strict_json import parsed

MEDIA_COLUMNS = (
    *("image", "images", "video", "videos", "audio", "audios"),
    *("image_url", "image_urls", "image_path", "image_paths", "picture", "pictures", "img"),
)


def with_messages(record: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The row with the messages in these columns, and among its candidates, as chat templates take them.

    Raises:
        ValueError: a message has a part that is no text, or calls that are none. The message goes on from "row 1".
    """
    row = dict(record) | {name: _conversation(record[name], name) for name in names if name in record}
    if isinstance(candidates := row.get("candidates"), list):
        row["candidates"] = [_conversation(candidate, "candidates") for candidate in candidates]
    return row


def is_dialogue(value: Any) -> bool:
    """Whether it is a list of messages in our form."""
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and "role" in turn for turn in value)


def check_is_text(columns: Sequence[str], source: str) -> None:
    """Raise ValueError if the source has columns of images, videos or sound, which no model here would see."""
    media = [name for name in columns if name in MEDIA_COLUMNS]
    if media:
        raise ValueError(
            f"{source} has the column{'s' if len(media) > 1 else ''} {', '.join(media)}, and only text is trained on: "
            "leave out the rows that need what is in there, then that column."
        )


def _conversation(value: Any, name: str) -> Any:
    return [_message(one, name) for one in value] if isinstance(value, list) else value


def _message(message: Any, name: str) -> Any:
    if not isinstance(message, dict):
        return message
    content, calls = message.get("content"), message.get("tool_calls")
    for part in content if isinstance(content, list) else ():
        _check_part(part, name)
    return _with_tools(message | {"tool_calls": _calls(calls, name)} if calls else message)


def _calls(given: Any, name: str) -> list[dict[str, Any]]:
    """Tool calls, which may be JSON text together or each by itself."""
    calls = parsed(given) or []
    calls = [parsed(call) for call in calls] if isinstance(calls, list) else calls
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise ValueError(
            f"has tool_calls in {name} that are no list of calls: make them a list of objects with a function, or one "
            "as JSON."
        )
    return calls


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
