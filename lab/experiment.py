"""What the experiments share: options, files of results, parts that are kept, tables of estimates."""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import describe
from iwpo_fast.files import save_json

RESULTS = Path(__file__).parent / "results"


def options(command: str, description: str | None, parts: str) -> argparse.ArgumentParser:
    """A parser of what all experiments are told; `parts` names the folder of what is kept."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument(
        "--parts",
        type=Path,
        default=Path(tempfile.gettempdir()) / parts,
        help="folder of what is simulated or trained; a run that was cut short goes on from there",
    )
    parser.add_argument("--commit", help="where git cannot tell")
    return parser


def on_one_thread(commit: str | None) -> dict[str, Any]:
    """Limit the run to one core; returns facts on the machine."""
    torch.set_num_threads(1)
    return describe(torch.device("cpu"), commit)


def digest(files: Iterable[Path], *settings: Any) -> str:
    """Hash of the code behind numbers and of settings, by which parts of older code are told from those of this one."""
    hashed = hashlib.sha256(repr(settings).encode())
    for file in files:
        hashed.update(file.read_bytes())
    return hashed.hexdigest()[:20]


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What an earlier run left there as JSON; else it is made, and left for a later one."""
    if not path.exists():
        save_json(path, make())
    return json.loads(path.read_text())


def write(path: Path, result: Mapping[str, Any], text: str) -> Path:
    """The JSON, and Markdown beside it, which is printed too."""
    save_json(path, result)
    path.with_suffix(".md").write_text(text + "\n")
    print(text)
    return path


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown of rows, the first of them the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def bold(text: str, interval: Mapping[str, float]) -> str:
    """The text, bold where the interval excludes zero."""
    return f"**{text}**" if interval["low"] > 0 or interval["high"] < 0 else text


def as_cell(change: Mapping[str, float]) -> str:
    """An estimate with its interval."""
    return bold(f"{change['mean']:+.1f} [{change['low']:+.1f}, {change['high']:+.1f}]", change)
