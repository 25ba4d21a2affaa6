"""Which row of the data that were given each row of a file of the pipeline is, so that messages name that row.

The numbers stand in a file beside the rows, and not among their columns, because other trainers read the rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open

from iwpo_fast.config import DataConfig
from iwpo_fast.data import Rows, read_rows
from iwpo_fast.files import save_tensors


def origin_of(path: Path) -> Path:
    """The file beside a file of rows that says where they come from."""
    return path.with_suffix(".rows.safetensors")


def save_origin(path: Path, rows: Rows) -> None:
    """Keep the source and the numbers of the rows that `path` holds."""
    save_tensors(origin_of(path), {"number": torch.from_numpy(rows.numbers)}, {"source": rows.source})


def read_written(config: DataConfig) -> tuple[Rows, Rows | None]:
    """What `read_rows` gives for files of the pipeline, under the numbers and the source of the data that were given.

    Files of a pipeline that kept no numbers, as versions before did, go by their own.
    """
    training, held_out = read_rows(config)
    named = None if held_out is None or config.eval_path is None else _with_origin(held_out, Path(config.eval_path))
    return _with_origin(training, Path(config.path)), named


def _with_origin(rows: Rows, path: Path) -> Rows:
    if not origin_of(path).exists():
        return rows
    with safe_open(origin_of(path), framework="np") as file:
        number, source = file.get_tensor("number"), file.metadata()["source"]
    return replace(rows, numbers=number[rows.numbers - 1], source=source)
