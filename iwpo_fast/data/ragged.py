"""Rows of different lengths in two arrays, the layout that Arrow, NumPy and the GPU all read without copying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """Row i is `values[offsets[i]:offsets[i + 1]]`; `offsets` has one entry more than there are rows."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int] | np.ndarray], dtype: type = np.int32) -> Ragged:
        offsets = bounds_of([len(row) for row in rows])
        values: np.ndarray = np.empty(int(offsets[-1]), dtype=dtype)
        for i, row in enumerate(rows):
            values[offsets[i] : offsets[i + 1]] = row
        return cls(values, offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts, one part after the other."""
        values, lengths = ([getattr(part, name) for part in parts] for name in ("values", "lengths"))
        return cls(np.concatenate(values), bounds_of(np.concatenate(lengths)))

    def take(self, rows: np.ndarray) -> Ragged:
        """The given rows, in the given order."""
        return self.slices(self.offsets[rows], self.lengths[rows])

    def slices(self, starts: np.ndarray, lengths: np.ndarray) -> Ragged:
        """New rows of the given lengths, copied from the given positions in `values`."""
        # Python's own integers index faster than NumPy's.
        pieces = [self.values[i:j] for i, j in zip(starts.tolist(), (starts + lengths).tolist(), strict=True)]
        return Ragged(np.concatenate([self.values[:0], *pieces]), bounds_of(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def bounds_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """int64 [n + 1]: where parts of these lengths begin, and the last of them ends, if they lie end to end."""
    bounds = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def positions_of(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64 [sum of lengths]: start, start + 1, ... of each part, part after part."""
    bounds = bounds_of(lengths)
    return np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], lengths)
