"""Values of Arrow columns as the rows were before Arrow gave them all one type."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

Reader = Callable[[Any], Any]

JSON = "arrow.json"
"""Extension type of values that are stored as JSON; `datasets` calls it Json."""


def readers_of(schema: pa.Schema, *, parse: bool) -> dict[str, Reader]:
    """By column, what makes of a value in Python the one that was stored; columns that need nothing have none.

    Values of the JSON type are parsed. Keys of structures that are null are left out, because Arrow gives every
    structure the keys of all: except a message's `content`, which has no other reason to be there.

    Args:
        parse: values of the JSON type are still text.
    """
    readers = {name: _reader(kind, parse) for name, kind in zip(schema.names, schema.types, strict=True)}
    return {name: reader for name, reader in readers.items() if reader is not None}


def as_stored(rows: Iterable[dict[str, Any]], readers: dict[str, Reader]) -> list[dict[str, Any]]:
    """The rows with their values read."""
    if not readers:
        return list(rows)
    return [{name: readers[name](value) if name in readers else value for name, value in row.items()} for row in rows]


def _reader(kind: Any, parse: bool) -> Reader | None:
    import pyarrow as pa

    if getattr(kind, "extension_name", None) == JSON:
        return _parsed if parse else None
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return _of_struct({field.name: _reader(field.type, parse) for field in fields})
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _reader(kind.value_type, parse)
        return None if inner is None else _of_list(inner)
    return None


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _of_list(inner: Reader) -> Reader:
    return lambda value: None if value is None else [inner(one) for one in value]


def _of_struct(readers: dict[str, Reader | None]) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        there = {name: one for name, one in value.items() if one is not None or name == "content"}
        return {name: one if (inner := readers.get(name)) is None else inner(one) for name, one in there.items()}

    return read
