"""Rows with their new columns as JSON Lines or Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from iwpo_fast.data.places import local_files
from iwpo_fast.data.row_files import first_line
from iwpo_fast.files import check_folder, written_aside
from iwpo_fast.paths import expanded

SUFFIXES = (".jsonl", ".parquet")


def check_output(output: str, source: str | list[str]) -> Path:
    """The path to write to.

    Raises:
        ValueError: it is no file of a known kind, it is the input, or it cannot be written.
    """
    path = expanded(output)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"output is {output}: give a file that ends in {' or '.join(SUFFIXES)}.")
    if path.is_dir():
        raise ValueError(f"output is {output}, which is a folder: give the name of a file.")
    if path.resolve() in {file.resolve() for file in local_files(source)}:
        raise ValueError(f"output and data.path are both {output}, and the input would be lost: choose another output.")
    check_folder("output", path.parent)
    return path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows aside, then give the file its name.

    Raises:
        ValueError: a column holds values that Parquet has no common type for.
    """
    with written_aside(path) as aside:
        if path.suffix.lower() == ".parquet":
            _write_parquet(aside, rows)
            return
        with open(aside, "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict.fromkeys(name for row in rows for name in row)
    try:
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), path)
    except pa.ArrowException as error:
        raise ValueError(
            f"The rows cannot be written as Parquet ({first_line(error)}): give an output that ends in .jsonl."
        ) from error
