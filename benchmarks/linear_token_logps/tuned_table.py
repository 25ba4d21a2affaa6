"""The table of measured settings, as `iwpo_kernels.linear_token_logps.tuned` reads it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from iwpo_kernels.linear_token_logps.tuned import Tuned, table

Key = tuple[str, int, str]  # device name, hidden size, mode
Entries = dict[Key, Tuned]


def read(path: Path) -> Entries:
    """Nothing where there is no file."""
    return dict(table(str(path))) if path.exists() else {}


def write(path: Path, entries: Entries) -> None:
    """One entry a line; written aside and renamed, so that a run that is cut short leaves a whole table."""
    lines = [json.dumps(_entry(key, settings)) for key, settings in sorted(entries.items(), key=lambda item: item[0])]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.new")
    aside.write_text("[" + ",\n ".join(lines) + "]\n")
    aside.replace(path)


def _entry(key: Key, settings: Tuned) -> dict[str, Any]:
    device, features, mode = key
    chosen = {name: value for name, value in asdict(settings).items() if value not in (None, False)}
    return {"device": device, "hidden_size": features, "mode": mode} | chosen
