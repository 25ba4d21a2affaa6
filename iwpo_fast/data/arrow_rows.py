"""What rows hold, kept in Arrow files that are mapped into memory: a value is made when it is asked for.

A text is an Arrow string; any other value, such as a conversation, is a string of JSON in a second column. What JSON
does not have, such as a date, becomes text there, as it does in the files that the library writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from iwpo_fast.data.scratch import mapped, room_is_needed, scratch_file

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

AT_ONCE = 256
"""Values in one batch of a file."""

REMEMBERED = 2 * AT_ONCE
"""Values that are kept as they were made, because a row is looked at several times on its way to tokens."""


class Stored(Sequence[T]):
    """Values in an Arrow file, or the chosen ones among them. Those that are equal to a list's equal the list."""

    def __init__(self, batches: Sequence[pa.RecordBatch], chosen: np.ndarray) -> None:
        self._batches = batches
        self._chosen = chosen
        # Not of `self`, which would hold the file until the garbage collector comes.
        self._value = lru_cache(REMEMBERED)(partial(_value, batches))

    def take(self, chosen: np.ndarray) -> Stored[T]:
        """The given ones, int64 [n], in the given order, which stay where they are."""
        return Stored(self._batches, self._chosen[chosen])

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Stored[T]: ...
    def __getitem__(self, place: int | slice) -> T | Stored[T]:
        if isinstance(place, slice):
            return Stored(self._batches, self._chosen[place])
        return self._value(int(self._chosen[place]))

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), AT_ONCE):
            yield from _values(self._batches, self._chosen[start : start + AT_ONCE])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | Stored):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Stored({len(self)} values)"


class Store(Generic[T]):
    """Takes values in turn, and gives them back as `Stored`."""

    def __init__(self) -> None:
        import pyarrow as pa

        self._schema = pa.schema({"text": pa.large_string(), "json": pa.large_string()})
        self._file = scratch_file()
        self._writer = pa.ipc.new_file(self._file, self._schema)
        self._waiting: list[T] = []
        self._count = 0

    def append(self, value: T) -> None:
        self._waiting.append(value)
        self._count += 1
        if len(self._waiting) == AT_ONCE:
            self._write()

    def extend(self, values: Iterable[T]) -> None:
        for value in values:
            self.append(value)

    def finish(self) -> Stored[T]:
        """All values; none can be added any more."""
        import pyarrow as pa

        if self._waiting:
            self._write()
        with room_is_needed():
            self._writer.close()
        with self._file as file:
            reader = pa.ipc.open_file(pa.py_buffer(mapped(file)))
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        return Stored(batches, np.arange(self._count))

    def _write(self) -> None:
        import pyarrow as pa

        columns = [pa.array(column, pa.large_string()) for column in _columns(self._waiting)]
        with room_is_needed():
            self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._waiting = []


class RareStore(Generic[T]):
    """As `Store`, for values that mostly are all the same; then none is written.

    Args:
        usual: the value.
    """

    def __init__(self, usual: T) -> None:
        self._usual = usual
        self._before = 0
        self._store: Store[T] | None = None

    def append(self, value: T) -> None:
        if self._store is None and value == self._usual:
            self._before += 1
            return
        if self._store is None:
            self._store = Store()
            self._store.extend(repeat(self._usual, self._before))
        self._store.append(value)

    def finish(self) -> Stored[T] | None:
        """All values; None if each is the usual one."""
        return None if self._store is None else self._store.finish()


def stored(values: Iterable[T]) -> Stored[T]:
    """All values, which are asked for one after the other."""
    store: Store[T] = Store()
    store.extend(values)
    return store.finish()


def taken(values: Sequence[T], chosen: np.ndarray) -> Sequence[T]:
    """The chosen ones, int64 [n], of values that are stored or in a list."""
    return values.take(chosen) if isinstance(values, Stored) else [values[i] for i in chosen]


def _columns(values: Sequence[Any]) -> tuple[list[str | None], list[str | None]]:
    """Texts, and the JSON of everything else; null in both columns for None."""
    texts = [value if isinstance(value, str) and _is_text(value) else None for value in values]
    others = [
        json.dumps(value, default=str) if text is None and value is not None else None
        for text, value in zip(texts, values, strict=True)
    ]
    return texts, others


def _is_text(value: str) -> bool:
    """Whether it can be written in UTF-8, as half a surrogate pair cannot."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _value(batches: Sequence[pa.RecordBatch], place: int) -> Any:
    batch, row = divmod(place, AT_ONCE)
    texts, others = batches[batch].columns
    text = texts[row].as_py()
    return _made(others[row].as_py()) if text is None else text


def _values(batches: Sequence[pa.RecordBatch], places: np.ndarray) -> Iterator[Any]:
    """Together, where they stand one after the other in one batch."""
    (first, start), (last, end) = divmod(int(places[0]), AT_ONCE), divmod(int(places[-1]), AT_ONCE)
    if first != last or (np.diff(places) != 1).any():
        yield from (_value(batches, place) for place in places.tolist())
        return
    texts, others = (column.slice(start, end + 1 - start).to_pylist() for column in batches[first].columns)
    for text, other in zip(texts, others, strict=True):
        yield _made(other) if text is None else text


def _made(other: str | None) -> Any:
    return None if other is None else json.loads(other)
