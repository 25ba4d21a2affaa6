"""The numbers of a whole data set, without a Python object for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from iwpo_fast.data.number import LARGEST
from iwpo_fast.integrations.trl.collator import column_of


def checked_columns(data: Any, columns: Mapping[str, str], source: str) -> dict[str, np.ndarray]:
    """float32 [P] or [P, k] each, under our names; of a stream those of the first row.

    Args:
        columns: our names to those of the data, which has them.
        source: what sentences call the data.

    Raises:
        ValueError: as of `column_of`.
    """
    if not isinstance(data, Dataset) or data.format["type"] == "custom":  # a function makes what is read
        made = {ours: column_of(ours, theirs, _values(data, theirs), source) for ours, theirs in columns.items()}
        return {ours: values.numpy() for ours, values in made.items()}
    return {ours: _checked(ours, theirs, _column(data, theirs), source) for ours, theirs in columns.items()}


def _column(data: Dataset, name: str) -> pa.Array:
    """In the order of the rows; what `datasets` offers to read shuffled ones makes a table of each."""
    column = data.data.column(name)
    column = column if data._indices is None else column.take(data._indices.column(0))
    return column.combine_chunks()


def _checked(ours: str, theirs: str, column: pa.Array, source: str) -> np.ndarray:
    numbers = _numbers(column)
    if numbers is None or not _in_range(ours, numbers):
        return column_of(ours, theirs, (value.as_py() for value in column), source).numpy()  # which says which is none
    return numbers.astype(np.float32)


def _numbers(column: pa.Array) -> np.ndarray | None:
    """[P] or [P, k]; None where a value is absent or no number, or lists differ in length."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        flat, lengths = column.flatten(), np.unique(np.diff(column.offsets))
        if column.null_count or len(lengths) != 1 or (numbers := _numbers(flat)) is None or numbers.ndim > 1:
            return None
        return numbers.reshape(len(column), -1) if lengths[0] else None
    if column.null_count or not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return None
    return column.to_numpy()


def _in_range(ours: str, numbers: np.ndarray) -> bool:
    lowest, highest = {"weight": (0, LARGEST), "label_smoothing": (0, 1)}.get(ours, (-LARGEST, LARGEST))
    above = numbers < highest if ours == "label_smoothing" else numbers <= highest
    return bool(np.all((numbers >= lowest) & above))


def _values(data: Any, name: str) -> Iterable[Any]:
    if hasattr(data, "__len__"):
        return data[name]
    return [row[name] for row in data.take(1)]
