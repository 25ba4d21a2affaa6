"""Reading rows from files, folders and the hub, as dictionaries under our column names."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iwpo_fast.data.arrow_values import as_stored, chosen_columns, readers_of
from iwpo_fast.data.columns import split_columns
from iwpo_fast.data.numbering import Numbering
from iwpo_fast.data.places import Place, chosen_split, files_of
from iwpo_fast.data.row_files import (
    FORMS,
    ROWS_AT_ONCE,
    Opened,
    Row,
    first_line,
    is_table,
    numbered,
    open_file,
    unreadable,
)
from iwpo_fast.extras import needed
from iwpo_fast.paths import expanded
from iwpo_fast.terminal import escaped

Records = dict[int, Row]
"""Rows under our column names, by their number in the source, which counts from 1."""


class Source(NamedTuple):
    """The names of all columns of a source, and what its rows are called."""

    columns: list[str]
    numbering: Numbering


class _AllNames(Container[str]):
    def __contains__(self, name: object) -> bool:
        return True


def read_all(place: Place, *, limit: int | None = None) -> tuple[Records, Source]:
    """Rows with all columns under the names that the source gives them; errors are those of `Reader`."""
    reader = Reader(place, _AllNames())
    records = dict(reader.rows(limit))
    return records, reader.source()


class Reader:
    """Goes through the rows of a place once, keeps none of them, and knows the files and columns afterwards.

    Args:
        wanted: columns of the source to read, beside those that hold text, as of `open_file`.

    Attributes:
        is_text: whether numbers are text in the source.

    Raises:
        ValueError: there is nothing at the place; rows raise one where they cannot be read.
    """

    def __init__(self, place: Place, wanted: Container[str]) -> None:
        self._place = place
        self._wanted = wanted
        self._columns: dict[str, None] = {}
        self._files: list[tuple[str, int]] = []
        self._last = 0
        self._paths = files_of(place)
        self.is_text = self._paths is not None and any(map(is_table, self._paths))

    def records(self, names: Mapping[str, str], limit: int | None) -> Iterator[tuple[int, Row, Row]]:
        """Numbers, rows under our names, and what else rows hold.

        Args:
            names: our names to the source's names; names that a row lacks are absent from its dictionary.
            limit: read only so many rows.
        """
        split = split_columns(names)
        for number, row in self.rows(limit):
            yield number, *split(row)

    def rows(self, limit: int | None) -> Iterator[tuple[int, Row]]:
        for number, row in itertools.islice(self._all(), limit):
            if not row.keys() <= self._columns.keys():
                self._columns |= dict.fromkeys(row)
            yield number, row

    def source(self) -> Source:
        """What has been read.

        Raises:
            ValueError: nothing was.
        """
        if not self._last:
            raise self._place.missing("holds no rows: give one that does.")
        return Source(list(self._columns), Numbering(self._place.title, tuple(self._files)))

    def _all(self) -> Iterator[tuple[int, Row]]:
        for name, (rows, columns) in self._opened():
            self._columns |= dict.fromkeys(columns)
            self._files.append((name, before := self._last))
            for number, row in rows:
                self._last = before + number
                yield self._last, row

    def _opened(self) -> Iterator[tuple[str, Opened]]:
        if self._paths is None:
            yield self._place.title, _dataset(self._place, self._wanted)
            return
        for name, path in zip(_names(self._paths), self._paths, strict=True):
            yield name, open_file(path, self._wanted)


def _names(paths: Sequence[Path]) -> list[str]:
    """As much of the end of every path as tells them apart."""
    for parts in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(paths):
            return list(map(escaped, names))
    return [escaped(str(path)) for path in paths]


def _dataset(place: Place, wanted: Container[str]) -> Opened:
    """Rows of what `save_to_disk` wrote, or of a data set on the hub."""
    path = str(place.path)
    folder = expanded(path)
    dataset = _saved(folder, place) if folder.is_dir() else _of_hub(place)
    if isinstance(dataset, dict):
        dataset = dataset[chosen_split(dataset, place)]
    schema = dataset.features.arrow_schema
    some = dataset.with_format(None).select_columns(chosen_columns(schema, wanted))
    _check_sound(some, path)
    readers = readers_of(schema, parse=False)  # datasets parses
    batches = (
        as_stored((dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)), readers)
        for batch in some.iter(ROWS_AT_ONCE)
    )
    return numbered(batches, path, "a data set"), dataset.column_names


def _check_sound(dataset: Any, path: str) -> None:
    """Raise ValueError where reading the files of the data set would leave the memory that they are in."""
    try:
        dataset.data.validate(full=True)
    except Exception as error:  # the kinds of pyarrow, which is not imported here
        raise unreadable(path, "a data set", error) from error


def _saved(folder: Path, place: Place) -> Any:
    datasets = needed("datasets", by=f"{place.setting} {place.path} is a folder, and reading it")
    try:
        dataset = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever a damaged file leads to
        raise unreadable(folder, "a saved data set", error) from error
    if not isinstance(dataset, dict) and place.split not in (None, "train", str(dataset.split)):
        raise place.missing(f"is a single data set without a split {place.split}: remove that setting.")
    return dataset


def _of_hub(place: Place) -> Any:
    datasets = needed("datasets", by=f"{place.setting} {place.path} is no file here, and reading it from the hub")
    name = {} if place.name is None else {"name": place.name}
    try:
        return datasets.load_dataset(place.path, **name, split=place.split)
    except (OSError, ValueError, RuntimeError) as error:
        raise place.missing(
            f"is not there, and the hub cannot deliver it ({first_line(error)}): give {FORMS}."
        ) from error
