"""Values of Arrow columns as the rows were before Arrow gave them all one type."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING, Any

from iwpo_fast.data.strict_json import loads

if TYPE_CHECKING:
    import pyarrow as pa

Reader = Callable[[Any], Any]

JSON = "arrow.json"
"""Extension type of values that are stored as JSON; `datasets` calls it Json."""
CLASS = "ClassLabel"
"""Kind of values in `datasets` that are stored as places in a list of names."""


def readers_of(schema: pa.Schema, *, parse: bool) -> dict[str, Reader]:
    """By column, what makes of a value in Python the one that was stored; columns that need nothing have none.

    Values of the JSON type are parsed. Keys of structures that are null are left out, because Arrow gives every
    structure the keys of all: except a message's `content`, which has no other reason to be there. Maps, which Python
    gets as lists of couples, become dictionaries. Classes go by their names, because their order means nothing: in
    [desirable, undesirable], 1 is no word for true.

    Args:
        parse: values of the JSON type are still text.
    """
    about = _features(schema)
    readers = {
        name: _reader(kind, parse, about.get(name)) for name, kind in zip(schema.names, schema.types, strict=True)
    }
    return {name: reader for name, reader in readers.items() if reader is not None}


def chosen_columns(schema: pa.Schema, wanted: Container[str]) -> list[str]:
    """The wanted columns, and those that hold text, because none is left out without a word."""
    return [name for name, kind in zip(schema.names, schema.types, strict=True) if name in wanted or _holds_text(kind)]


def as_stored(rows: Iterable[dict[str, Any]], readers: dict[str, Reader]) -> list[dict[str, Any]]:
    """The rows with their values read."""
    if not readers:
        return list(rows)
    return [{name: readers[name](value) if name in readers else value for name, value in row.items()} for row in rows]


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What `datasets` wrote of the columns beside their types; nothing in files of others."""
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        features = loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return features if isinstance(features, dict) else {}
    return {}


def _reader(kind: Any, parse: bool, about: Any) -> Reader | None:
    """Args: about: as of `_features`, of this column or of what is in it."""
    import pyarrow as pa

    about = about if isinstance(about, dict) else {}
    if about.get("_type") == CLASS and pa.types.is_integer(kind) and isinstance(about.get("names"), list):
        return _of_class(about["names"])
    if getattr(kind, "extension_name", None) == JSON:
        return _parsed if parse else None
    if pa.types.is_struct(kind):
        return _of_struct({field.name: _reader(field.type, parse, about.get(field.name)) for field in _fields(kind)})
    if pa.types.is_map(kind):
        return _of_map(_reader(kind.item_type, parse, None))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _reader(kind.value_type, parse, about.get("feature"))
        return None if inner is None else _of_list(inner)
    return None


def _holds_text(kind: Any) -> bool:
    """Whether there is text in values of a type, however deep."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return kind.extension_name == JSON or _holds_text(kind.storage_type)
    if pa.types.is_struct(kind):
        return any(_holds_text(field.type) for field in _fields(kind))
    if pa.types.is_map(kind):
        return _holds_text(kind.key_type) or _holds_text(kind.item_type)
    if hasattr(kind, "value_type"):  # lists of all kinds, and dictionaries
        return _holds_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _fields(struct: Any) -> list[Any]:
    return [struct.field(i) for i in range(struct.num_fields)]


def _parsed(value: Any) -> Any:
    return loads(value) if isinstance(value, str) else value


def _of_class(names: list[str]) -> Reader:
    """`datasets` stores an absent class as -1."""
    return lambda value: names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _of_list(inner: Reader) -> Reader:
    return lambda value: None if value is None else [inner(one) for one in value]


def _of_map(inner: Reader | None) -> Reader:
    def read(value: Any) -> Any:
        if value is None:
            return None
        made = {name: one if inner is None else inner(one) for name, one in value}
        if len(made) < len(value):
            raise ValueError("a map has a key twice")
        return made

    return read


def _of_struct(readers: dict[str, Reader | None]) -> Reader:
    kept = "content" if "role" in readers else None  # arguments of a call may be called content as well

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        there = {name: one for name, one in value.items() if one is not None or name == kept}
        return {name: one if (inner := readers.get(name)) is None else inner(one) for name, one in there.items()}

    return read
