"""Rows of different lengths in two arrays, the layout that Arrow, NumPy and the GPU all read without copying."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import DTypeLike

from iwpo_fast.data.scratch import LARGE, empty_array, mapped, room_is_needed, scratch_file

ROWS_AT_ONCE = 1 << 16
"""Rows of which what is in between is in memory."""


@dataclass(frozen=True)
class Ragged:
    """Row i is `values[offsets[i]:offsets[i + 1]]`; `offsets` has one entry more than there are rows.

    Large values lie in a mapped file, so no row of a new one may be changed that could be the row of another.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int] | np.ndarray], dtype: DTypeLike = np.int32) -> Ragged:
        offsets = bounds_of([len(row) for row in rows])
        values: np.ndarray = np.empty(int(offsets[-1]), dtype=dtype)
        for i, row in enumerate(rows):
            values[offsets[i] : offsets[i + 1]] = row
        return cls(values, offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts, one part after the other."""
        offsets = bounds_of(np.concatenate([part.lengths for part in parts]))
        dtype = np.result_type(*(part.values for part in parts))
        values = np.concatenate([part.values for part in parts], out=empty_array(int(offsets[-1]), dtype))
        return cls(values, offsets)

    def take(self, rows: np.ndarray) -> Ragged:
        """The given rows, in the given order."""
        return self.slices(self.offsets[rows], self.lengths[rows])

    def slices(self, starts: np.ndarray, lengths: np.ndarray) -> Ragged:
        """New rows of the given lengths, from the given positions in `values`; itself if they are all of its own."""
        if np.array_equal(lengths, self.lengths) and np.array_equal(starts, self.offsets[:-1]):
            return self
        offsets = bounds_of(lengths)
        values = empty_array(int(offsets[-1]), self.values.dtype)
        for some in rows_at_once(len(lengths)):
            # Python's own integers index faster than NumPy's.
            ends = (starts[some] + lengths[some]).tolist()
            pieces = [self.values[i:j] for i, j in zip(starts[some].tolist(), ends, strict=True)]
            np.concatenate(pieces, out=values[offsets[some.start] : offsets[some.stop]])
        return Ragged(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


class RaggedWriter:
    """Takes rows part by part, and keeps them in a file as soon as they are many."""

    def __init__(self, dtype: DTypeLike = np.int32) -> None:
        self._dtype = np.dtype(dtype)
        self._file: IO[bytes] | None = None
        self._waiting: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
        self._bytes = 0

    def append(self, part: Ragged) -> None:
        self._waiting.append(part.values.astype(self._dtype, copy=False))
        self._lengths.append(part.lengths)
        self._bytes += self._waiting[-1].nbytes
        if self._bytes >= LARGE:
            self._write()

    def finish(self) -> Ragged:
        """All rows; none can be added any more."""
        offsets = bounds_of(np.concatenate(self._lengths))
        if self._file is None:
            return Ragged(np.concatenate([np.empty(0, self._dtype), *self._waiting]), offsets)
        self._write()
        with self._file as file:
            return Ragged(np.frombuffer(mapped(file), self._dtype), offsets)

    def _write(self) -> None:
        if self._file is None:
            self._file = scratch_file()
        with room_is_needed():
            self._file.writelines(values.data for values in self._waiting if len(values))
        self._waiting, self._bytes = [], 0


def rows_at_once(total: int) -> Iterator[slice]:
    """All rows in turn, so many at once that what is made of them fits into memory."""
    return (slice(start, min(start + ROWS_AT_ONCE, total)) for start in range(0, total, ROWS_AT_ONCE))


def bounds_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """int64 [n + 1]: where parts of these lengths begin, and the last of them ends, if they lie end to end."""
    bounds = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def positions_of(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64 [sum of lengths]: start, start + 1, ... of each part, part after part."""
    bounds = bounds_of(lengths)
    return np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], lengths)
