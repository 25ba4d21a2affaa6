"""Drawn completions on disk: a file for each finished block, until one file of all takes their place."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.checksums import Damaged
from iwpo_fast.data.candidates import key_of
from iwpo_fast.data.rows import Candidates, Rows, Text
from iwpo_fast.files import load_record, save_record, written_aside

Record = dict[str, Any]
"""A completion: `row`, the first row with its prompt, from 0; `completion`, text or messages; `draws`, how often it was
drawn; and `tokens`, `ended`, `log_mu`, `log_model`, as of `Draw`, the first time."""

logger = logging.getLogger(__name__)

NUMBERS = ("draws", "ended", "log_mu", "log_model")


def part_of(folder: Path, number: int) -> Path:
    """Where a finished block is."""
    return folder / f"{number:07}.json"


def save_part(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    save_record(path, {"records": list(records)})


def load_part(path: Path) -> list[Record] | None:
    """The records of a block; None if it is not finished, or what is there is damaged."""
    try:
        records: list[Record] = load_record(path)["records"]
        return records
    except FileNotFoundError:
        return None
    except (Damaged, KeyError):
        logger.warning("The completions in %s are damaged: drawing this block again.", path)
        return None


def save_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with written_aside(path) as aside, open(aside, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def load_records(path: Path) -> list[Record]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def merged(records: Sequence[Record]) -> list[Record]:
    """Equal completions of a prompt as one, in the order of the prompts' rows and then of the draws.

    Args:
        records: of all blocks, each of one draw, with its `draw`.
    """
    found: dict[tuple[int, str], Record] = {}
    for record in sorted(records, key=lambda record: (record["row"], record["draw"])):
        key = record["row"], key_of(record["completion"])
        if key in found:
            found[key]["draws"] += 1
        else:
            found[key] = {name: value for name, value in record.items() if name != "draw"} | {"draws": 1}
    return list(found.values())


def with_samples(rows: Rows, records: Sequence[Record]) -> Rows:
    """The rows, with the drawn completions behind the candidates of the data."""
    own = rows.candidates or Candidates([], np.empty(0, dtype=np.int64))
    texts: list[Text] = [*own.texts, *(record["completion"] for record in records)]
    row = np.concatenate([own.row, np.array([record["row"] for record in records], dtype=np.int64)])
    unknown = np.full((len(records), *own.scores.shape[1:]), np.nan)
    columns = {"score": np.concatenate([own.scores, unknown])}
    for name in NUMBERS:
        drawn = np.array([_number(record[name]) for record in records], dtype=np.float64)
        columns[name] = np.concatenate([np.full(len(own), np.nan), drawn])
    return replace(rows, candidates=Candidates(texts, row, columns, own.left_out))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
