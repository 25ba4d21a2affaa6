"""Settings found by measurement, by device, hidden size and mode: data, written by `benchmarks`' tuner."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch

# The rows of the cost table: what a pass leaves behind, or how it makes the head's gradient.
Mode = Literal["no gradient", "frozen", "saved", "recomputed"]
TABLE = "IWPO_TILING_TABLE"


@dataclass(frozen=True)
class Tuned:
    """How one mode runs fastest.

    Attributes:
        rows, width: of a tile, at most; where width is None, or there are fewer than `rows` in all, `tiling` chooses.
        row_warps, slice_block: of `slice_kernel`; None takes those of `kernels`.
        epilogue: whether exponentials are made in the product's own epilogue, where it serves; None leaves it to
            `epilogue.pays`.
    """

    rows: int | None = None
    width: int | None = None
    row_warps: int | None = None
    slice_block: int | None = None
    epilogue: bool | None = None


DEFAULTS = Tuned()
Table = Mapping[tuple[str, int, str], Tuned]  # by device name, hidden size and mode
_on_trial: Table | None = None


def tuned(device: torch.device, features: int, mode: Mode) -> Tuned:
    """What was measured on just this device at just this hidden size, or the defaults."""
    entries = table(os.environ.get(TABLE)) if _on_trial is None else _on_trial
    return entries.get((device_name(device), features, mode), DEFAULTS)


@contextmanager
def using(entries: Table) -> Iterator[None]:
    """These instead of the table, in all threads, because backward passes run in threads of their own."""
    global _on_trial
    before, _on_trial = _on_trial, entries
    try:
        yield
    finally:
        _on_trial = before


@functools.cache
def device_name(device: torch.device) -> str:
    """As the table spells it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@functools.cache
def table(path: str | None) -> Table:
    """The table beside this file, or the one that `$IWPO_TILING_TABLE` names.

    Raises:
        ValueError: there is no such file, it is not JSON, or an entry has a key that is not known, or lacks device,
            hidden size or mode.
    """
    file = Path(__file__).with_name("tuned.json") if path is None else Path(path)
    try:
        entries = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        named = f"{file}, the table of tiles" + ("" if path is None else f" that ${TABLE} names")
        raise ValueError(f"{named}, cannot be read: {error}") from error
    known = {field.name for field in fields(Tuned)}
    tuned = {}
    for entry in entries:
        settings = {name: value for name, value in entry.items() if name in known}
        rest = entry.keys() - known
        if rest != {"device", "hidden_size", "mode"}:
            raise ValueError(
                f"{file} has an entry with {', '.join(sorted(entry))}: "
                f"each needs device, hidden_size, mode, and may have {', '.join(sorted(known))}."
            )
        tuned[entry["device"], entry["hidden_size"], entry["mode"]] = Tuned(**settings)
    return tuned
