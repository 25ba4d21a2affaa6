"""JSON in which no key stands twice: Python keeps the last of two, and the other text would be gone without a word."""

from __future__ import annotations

import ast
import json
from collections import Counter
from typing import Any


class RepeatedKey(ValueError):
    """An object has the key `key` twice. The message goes on from "row 1"."""

    def __init__(self, key: str) -> None:
        super().__init__(f"has the key {key!r} twice in one object: keep one of them.")
        self.key = key


def loads(text: str | bytes) -> Any:
    """As `json.loads`.

    Raises:
        RepeatedKey: an object has a key twice.
    """
    return json.loads(text, object_pairs_hook=_object)


def parsed(value: Any) -> Any:
    """What a string holds as JSON, or as Python source, which pandas writes into CSV; other values as they are.

    Raises:
        RepeatedKey: an object has a key twice.
    """
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except RepeatedKey:
        raise
    except (ValueError, RecursionError):
        pass
    try:
        source = ast.parse(value.lstrip(" \t"), mode="eval")
        found = ast.literal_eval(source)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # as its page lists them
        return value
    for made in ast.walk(source):
        if isinstance(made, ast.Dict):
            _object([(key.value, None) for key in made.keys if isinstance(key, ast.Constant)])
    return found


def _object(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise RepeatedKey(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return made
