"""Reading rows from files, folders and the hub, as dictionaries under our column names."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from iwpo_fast.data.arrow_values import as_stored, readers_of
from iwpo_fast.extras import needed

JSON_LINES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
PARQUET = (".parquet",)
ARROW = (".arrow", ".feather")
FORMS = "a .jsonl, .jsonl.gz, .parquet or .arrow file, a folder saved by save_to_disk, or a hub id"
ROWS_AT_ONCE = 1000

Records = dict[int, dict[str, Any]]
"""Rows under our column names, by their number in the source, which counts from 1."""

NumberedRows = Iterator[tuple[int, dict[str, Any]]]


def read_records(
    path: str, split: str | None, names: Mapping[str, str], *, limit: int | None = None, setting: str = "data.path"
) -> tuple[Records, list[str]]:
    """Read the columns that are the values of `names`, and call them by its keys.

    Args:
        path: file, folder or hub id.
        split: which split; None takes the only one there is. A file is its own split `train`.
        names: our names to the source's names; names that a row lacks are absent from its dictionary.
        limit: read only so many rows.
        setting: what `path` is called in the configuration, for messages.

    Returns:
        The rows, and the names of all columns of the source.

    Raises:
        ValueError: there is nothing at the path, or its content cannot be read.
    """
    rows, columns = _open(path, split, set(names.values()), setting)
    seen = dict.fromkeys(columns)
    records: Records = {}
    for number, row in itertools.islice(rows, limit):
        seen.update(dict.fromkeys(row))
        records[number] = {ours: row[theirs] for ours, theirs in names.items() if theirs in row}
    if not records:
        raise ValueError(f"{setting} {path} holds no rows: give one that does.")
    return records, list(seen)


class _AllNames(Container[str]):
    def __contains__(self, name: object) -> bool:
        return True


def read_all(path: str, split: str | None, *, limit: int | None = None, setting: str = "data.path") -> Records:
    """Rows with all columns under the names that the source gives them; arguments and errors are those of
    `read_records`."""
    rows, _ = _open(path, split, _AllNames(), setting)
    records = dict(itertools.islice(rows, limit))
    if not records:
        raise ValueError(f"{setting} {path} holds no rows: give one that does.")
    return records


def source_name(path: str) -> str:
    """What the source is called in messages."""
    file = Path(path).expanduser()
    return file.name if file.exists() else path


def _open(path: str, split: str | None, wanted: Container[str], setting: str) -> tuple[NumberedRows, list[str]]:
    file = Path(path).expanduser()
    if file.is_file():
        if split not in (None, "train"):
            raise ValueError(f"{setting} {path} is a file and has no split {split}: remove the setting of the split.")
        return _file(file, wanted)
    if file.is_dir():
        return _saved_dataset(file, split, wanted, setting)
    return _hub_dataset(path, split, wanted, setting)


def _file(path: Path, wanted: Container[str]) -> tuple[NumberedRows, list[str]]:
    name = path.name.lower()
    if name.endswith(JSON_LINES):
        return _json_lines(path), []
    if name.endswith(PARQUET):
        return _parquet(path, wanted)
    if name.endswith(ARROW):
        return _arrow(path, wanted)
    raise ValueError(f"The kind of {path} is unknown: give {FORMS}.")


def _json_lines(path: Path) -> NumberedRows:
    """Rows numbered by line; blank lines are passed over."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                if stripped := line.strip():
                    yield number, _json_object(stripped, number, path)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked ({error}): make it or fetch it again.") from error


def _json_object(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except RecursionError as error:
        raise ValueError(f"{path} has JSON nested too deeply on line {number}: correct or remove it.") from error
    except ValueError as error:
        what = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise ValueError(f"{path} has malformed JSON on line {number} ({what}): correct or remove it.") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path} has no JSON object on line {number}: write one row as {{...}} per line.")
    return row


def _parquet(path: Path, wanted: Container[str]) -> tuple[NumberedRows, list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise _unreadable(path, "Parquet", error) from error
    columns = file.schema_arrow.names
    some = file.iter_batches(ROWS_AT_ONCE, columns=[name for name in columns if name in wanted])
    readers = readers_of(file.schema_arrow, parse=True)
    return _numbered((as_stored(batch.to_pylist(), readers) for batch in some), path, "Parquet"), columns


def _arrow(path: Path, wanted: Container[str]) -> tuple[NumberedRows, list[str]]:
    import pyarrow as pa

    try:
        source = pa.memory_map(str(path))
        try:
            table = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            table = pa.ipc.open_stream(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "Arrow", error) from error
    some = table.select([name for name in table.column_names if name in wanted])
    readers = readers_of(table.schema, parse=True)
    batches = (as_stored(batch.to_pylist(), readers) for batch in some.to_batches(ROWS_AT_ONCE))
    return _numbered(batches, path, "Arrow"), table.column_names


def _saved_dataset(
    path: Path, split: str | None, wanted: Container[str], setting: str
) -> tuple[NumberedRows, list[str]]:
    datasets = needed("datasets", by=f"{setting} {path} is a folder, and reading it")
    try:
        dataset = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        raise ValueError(f"{setting} {path} is a folder that save_to_disk did not write: give {FORMS}.") from None
    except Exception as error:  # whatever a damaged file leads to
        raise _unreadable(path, "a saved data set", error) from error
    if not isinstance(dataset, dict) and split not in (None, "train", str(dataset.split)):
        raise ValueError(f"{setting} {path} is a single data set without a split {split}: remove that setting.")
    return _dataset(dataset, str(path), split, wanted, setting)


def _hub_dataset(path: str, split: str | None, wanted: Container[str], setting: str) -> tuple[NumberedRows, list[str]]:
    looks_local = path.count("/") > 1 or path.startswith((".", "/", "~"))
    if looks_local or path.lower().endswith((*JSON_LINES, *PARQUET, *ARROW)):
        raise ValueError(f"{setting} {path} is not there: check the path.")
    datasets = needed("datasets", by=f"{setting} {path} is no file here, and reading it from the hub")
    try:
        dataset = datasets.load_dataset(path, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{setting} {path} is not there, and the hub cannot deliver it ({first_line(error)}): give {FORMS}."
        ) from error
    return _dataset(dataset, path, split, wanted, setting)


def _dataset(
    dataset: Any, path: str, split: str | None, wanted: Container[str], setting: str
) -> tuple[NumberedRows, list[str]]:
    """Rows of a `Dataset`, or of one split of a `DatasetDict`."""
    if isinstance(dataset, dict):
        if split is None and len(dataset) == 1:
            split = next(iter(dataset))
        if split not in dataset:
            what = "and none is chosen" if split is None else f"not {split}"
            raise ValueError(f"{setting} {path} has the splits {', '.join(dataset)}, {what}: set one of them.")
        dataset = dataset[split]
    some = dataset.with_format(None).select_columns([name for name in dataset.column_names if name in wanted])
    readers = readers_of(dataset.features.arrow_schema, parse=False)  # datasets parses
    batches = (
        as_stored((dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)), readers)
        for batch in some.iter(ROWS_AT_ONCE)
    )
    return _numbered(batches, path, "a data set"), dataset.column_names


def _numbered(batches: Iterable[list[dict[str, Any]]], path: Path | str, kind: str) -> NumberedRows:
    """Rows numbered from 1; whatever a damaged source leads to becomes one sentence."""
    try:
        yield from enumerate((row for batch in batches for row in batch), start=1)
    except Exception as error:
        raise _unreadable(path, kind, error) from error


def _unreadable(path: Path | str, kind: str, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as {kind} ({first_line(error)}): make it or fetch it again.")


def first_line(error: Exception) -> str:
    """The message of an error, or else its name, as part of a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
