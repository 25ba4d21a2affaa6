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
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        values: np.ndarray = np.empty(int(offsets[-1]), dtype=dtype)
        for i, row in enumerate(rows):
            values[offsets[i] : offsets[i + 1]] = row
        return cls(values, offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts, one part after the other."""
        ends = np.cumsum([0, *(len(part.values) for part in parts)])
        offsets = [part.offsets[1:] + end for part, end in zip(parts, ends, strict=False)]
        return cls(np.concatenate([part.values for part in parts]), np.concatenate([[0], *offsets]).astype(np.int64))

    def take(self, rows: np.ndarray) -> Ragged:
        """The given rows, in the given order."""
        return self.slices(self.offsets[rows], self.lengths[rows])

    def slices(self, starts: np.ndarray, lengths: np.ndarray) -> Ragged:
        """New rows of the given lengths, copied from the given positions in `values`."""
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ends = starts + lengths
        # Python's own integers index faster than NumPy's.
        pieces = [self.values[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        return Ragged(np.concatenate([self.values[:0], *pieces]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def bounds_of(lengths: np.ndarray) -> np.ndarray:
    """int64 [n + 1]: where parts of these lengths begin, and the last of them ends, if they lie end to end."""
    bounds = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def positions_of(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64 [sum of lengths]: start, start + 1, ... of each part, part after part."""
    bounds = bounds_of(lengths)
    return np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], lengths)
