"""One file of rows, by the end of its name: JSON Lines, a JSON list, CSV, Parquet or Arrow."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import sys
import zlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from iwpo_fast.data.arrow_values import as_stored, chosen_columns, readers_of
from iwpo_fast.data.strict_json import RepeatedKey, loads

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
NumberedRows = Iterator[tuple[int, Row]]
Opened = tuple[NumberedRows, list[str]]
"""Rows with their numbers, and the names of all columns as far as the file's head says."""

PACKED = (".gz", ".zst")
JSON_TEXT, TABLES = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv")
PARQUET, ARROW = (".parquet",), (".arrow", ".feather")
TEXT = tuple(kind + packed for kind in (*JSON_TEXT, *TABLES) for packed in ("", *PACKED))
KNOWN = (*TEXT, *PARQUET, *ARROW)
FORMS = (
    "a .jsonl, .json, .csv, .parquet or .arrow file (text also as .gz or .zst), a list of them, a pattern such as "
    "data/*.jsonl, a folder of them or one saved by save_to_disk, or a hub id"
)
ROWS_AT_ONCE = 1000


def is_table(path: Path) -> bool:
    """Whether the file holds nothing but text, so that numbers stand in it as text."""
    return _kind(path) in TABLES


def open_file(path: Path, wanted: Container[str]) -> Opened:
    """The rows of a file, numbered from 1; in JSON Lines by line.

    Args:
        wanted: columns to read beside those that hold text; where all stand in every row anyway, all come along.

    Raises:
        ValueError: its kind is unknown, or its head cannot be read; the rows raise one where they cannot be.
    """
    kind = _kind(path)
    if kind in JSON_TEXT:
        return _unpacked(path, _json_rows(path)), []
    if kind in TABLES:
        return _unpacked(path, _table(path, "\t" if kind == ".tsv" else ",")), []
    if kind in PARQUET:
        return _parquet(path, wanted)
    if kind in ARROW:
        return _arrow(path, wanted)
    raise ValueError(f"The kind of {path} is unknown: give {FORMS}.")


def numbered(batches: Iterable[list[Row]], path: Path | str, kind: str) -> NumberedRows:
    """Rows numbered from 1; whatever a damaged source leads to becomes one sentence."""
    try:
        yield from enumerate((row for batch in batches for row in batch), start=1)
    except Exception as error:
        raise unreadable(path, kind, error) from error


def unreadable(path: Path | str, kind: str, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as {kind} ({first_line(error)}): make it or fetch it again.")


def first_line(error: Exception) -> str:
    """The message of an error, or else its name, as part of a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _kind(path: Path) -> str:
    """The end of the name, without that of a compression."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return Path(name).suffix if path.name.lower().endswith(KNOWN) else ""


def _bytes(path: Path) -> BinaryIO:
    """The content of a file that may be compressed."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if suffix == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return open(path, "rb")


def _unpacked(path: Path, rows: NumberedRows) -> NumberedRows:
    try:
        yield from rows
    except (EOFError, OSError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise ValueError(f"{path} cannot be unpacked ({first_line(error)}): make it or fetch it again.") from error


def _json_rows(path: Path) -> NumberedRows:
    """Rows of JSON Lines by line, blank ones passed over; of a list by place."""
    with _bytes(path) as file:
        lines = enumerate(file, start=1)
        head = next(((number, line) for number, line in lines if line.strip()), None)
        if head is None:
            return
        head = head[0], head[1].removeprefix(codecs.BOM_UTF8)
        if _begins_list(head[1]):
            yield from _json_list(head[1] + file.read(), path)
            return
        for number, line in itertools.chain([head], lines):
            if stripped := line.strip():
                yield number, _json_object(stripped, number, path)


def _begins_list(line: bytes) -> bool:
    """Whether a line is the first of a list of rows, which a row of JSON Lines never is."""
    return line.strip() == b"[" or line.replace(b" ", b"").lstrip().startswith((b"[{", b"[]"))


def _json_list(text: bytes, path: Path) -> NumberedRows:
    rows = _parsed(text, path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{path} has no JSON object as row {number} of its list: write each row as {{...}}.")
        yield number, row


def _json_object(line: bytes, number: int, path: Path) -> Row:
    row = _parsed(line, path, number)
    if not isinstance(row, dict):
        raise ValueError(f"{path} has no JSON object on line {number}: write one row as {{...}} per line.")
    return row


def _parsed(text: bytes, path: Path, line: int | None = None) -> Any:
    """Args: line: the number of the line that the text is; None if it is the whole file."""
    try:
        return loads(text)
    except RepeatedKey as error:
        raise ValueError(
            f"{path} has the key {error.key!r} twice in one object{_on(line)}: keep one of them."
        ) from error
    except RecursionError as error:
        raise ValueError(f"{path} has JSON nested too deeply{_on(line)}: correct or remove it.") from error
    except json.JSONDecodeError as error:
        what = f"{error.msg} at column {error.colno}"
        raise ValueError(
            f"{path} has malformed JSON{_on(line or error.lineno)} ({what}): correct or remove it; rows stand one on "
            "a line, or all in one list."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} has malformed JSON{_on(line)} ({error}): correct or remove it.") from error


def _on(line: int | None) -> str:
    return "" if line is None else f" on line {line}"


def _table(path: Path, delimiter: str) -> NumberedRows:
    """Rows of a table with a head, numbered from 1 behind it; an empty cell is absent."""
    csv.field_size_limit(sys.maxsize)  # because texts are longer than the 128 KiB that the module allows
    with _bytes(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        rows = csv.DictReader(text, delimiter=delimiter, strict=True)
        try:
            _check_head(path, list(rows.fieldnames or ()), delimiter)
            for number, row in enumerate(rows, start=1):
                if None in row or None in row.values():
                    raise ValueError(f"{path} has more or fewer cells in row {number} than in its head: correct it.")
                yield number, {name: cell if cell else None for name, cell in row.items()}
        except (csv.Error, UnicodeDecodeError) as error:
            raise unreadable(path, "CSV", error) from error


def _check_names(path: Path, names: list[str]) -> None:
    """Raise ValueError for a name that two columns have."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has two columns {twice}: rename one.")


def _check_head(path: Path, names: list[str], delimiter: str) -> None:
    """Raise ValueError for a head that names a column twice, or that other characters separate."""
    _check_names(path, names)
    others = {";": "semicolons", "\t": "tabs", ",": "commas"}
    if len(names) == 1 and (found := [word for mark, word in others.items() if mark != delimiter and mark in names[0]]):
        raise ValueError(f"{path} has a head that {found[0]} separate: write it with commas, or as .tsv with tabs.")
    spaced = [name for name in names if name != name.strip()]
    if spaced:
        raise ValueError(f"{path} has spaces around the name of its column {spaced[0].strip()}: take them out.")


def _parquet(path: Path, wanted: Container[str]) -> Opened:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        columns, readers = file.schema_arrow.names, readers_of(file.schema_arrow, parse=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a damaged footer is one of the disk to pyarrow
        raise unreadable(path, "Parquet", error) from error
    _check_names(path, columns)
    some = file.iter_batches(ROWS_AT_ONCE, columns=chosen_columns(file.schema_arrow, wanted))
    return numbered((as_stored(batch.to_pylist(), readers) for batch in some), path, "Parquet"), columns


def _arrow(path: Path, wanted: Container[str]) -> Opened:
    import pyarrow as pa

    try:
        source = pa.memory_map(str(path))
        try:
            table = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            table = pa.ipc.open_stream(source).read_all()
        columns, readers = table.column_names, readers_of(table.schema, parse=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(path, "Arrow", error) from error
    _check_names(path, columns)
    some = table.select(chosen_columns(table.schema, wanted))
    batches = (as_stored(sound(batch).to_pylist(), readers) for batch in some.to_batches(ROWS_AT_ONCE))
    return numbered(batches, path, "Arrow"), columns


def sound(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows; raises pyarrow.ArrowInvalid where reading them would leave their buffers.

    Arrow files have no checksums, and what they say of places in memory is believed otherwise.
    """
    rows.validate(full=True)
    return rows
