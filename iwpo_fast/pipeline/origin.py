"""Which row of the data that were given each row of a file of the pipeline is, so that messages name that row.

The numbers stand in a file beside the rows, and not among their columns, because other trainers read the rows.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iwpo_fast.checksums import Damaged
from iwpo_fast.config import DataConfig
from iwpo_fast.data import Rows, read_rows
from iwpo_fast.files import load_with_metadata, save_tensors

SUFFIX = ".rows.safetensors"


def origin_of(path: Path) -> Path:
    """The file beside a file of rows that says where they come from."""
    return path.with_suffix(SUFFIX)


def save_origin(path: Path, rows: Rows) -> None:
    """Keep the source and the numbers of the rows that `path` holds."""
    source = json.dumps([rows.source, rows.files])
    save_tensors(origin_of(path), {"number": torch.from_numpy(rows.numbers)}, {"source": source})


def save_lines(path: Path, prepared: Path, lines: np.ndarray) -> None:
    """Keep which rows of another file of the pipeline the rows of `path` are made of.

    Args:
        prepared: the other file, for which `save_origin` was called.
        lines: int64 [N], from 0.
    """
    other = os.path.relpath(prepared, path.parent)
    save_tensors(origin_of(path), {"line": torch.from_numpy(lines)}, {"of": other})


def without_origins(outputs: dict[str, str] | None) -> dict[str, str] | None:
    """The files of a stage that later stages depend on: the same rows under other numbers are the same work."""
    if outputs is None:
        return None
    return {path: digest for path, digest in outputs.items() if not path.endswith(SUFFIX)}


def read_written(config: DataConfig) -> tuple[Rows, Rows | None]:
    """What `read_rows` gives for files of the pipeline, under the numbers and the source of the data that were given.

    Files of a pipeline that kept no numbers, as versions before did, go by their own.
    """
    training, held_out = read_rows(config, written=True)
    named = None if held_out is None or config.eval_path is None else _renumbered(held_out, config.eval_path)
    return _renumbered(training, config.path), named


def _renumbered(rows: Rows, path: str | list[str]) -> Rows:
    assert isinstance(path, str)
    origin = _origin(Path(path))
    if origin is None:
        return rows
    numbers, (source, files) = origin
    files = tuple((name, before) for name, before in files)
    return replace(rows, numbers=numbers[rows.numbers - 1], source=source, files=files)


def _origin(path: Path) -> tuple[np.ndarray, list[Any]] | None:
    """int64 [N], the number in the source of each row of `path`, and what names the source."""
    if not origin_of(path).exists():
        return None
    arrays, about = load_with_metadata(origin_of(path))
    if "source" in about:
        return arrays["number"], json.loads(about["source"])
    if "of" not in about:
        raise Damaged(origin_of(path))
    before = _origin(path.parent / about["of"])
    return None if before is None else (before[0][arrays["line"]], before[1])
