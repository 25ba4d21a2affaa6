"""Writing files so that a kill at any moment leaves either the old content or the new, never a part."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

OLD = ".old.tmp"


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or folder at; it takes the place of `path` when the body ends.

    A file is replaced at once. A folder is absent between two renames; `remove_leftovers` brings the old one back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield aside
        _sync(aside)
        if path.is_dir():
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{OLD}")
            os.replace(path, old)
            os.replace(aside, path)
            shutil.rmtree(old)
        else:
            os.replace(aside, path)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)


def link(path: Path, place: Path) -> None:
    """Have the file at `path` at `place` too, as a hard link, or as a copy where the disk has none."""
    with written_aside(place) as aside:
        try:
            os.link(path, aside)
        except OSError:
            shutil.copy2(path, aside)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing aside in `folder`, and bring back a folder that it had moved away."""
    for old in folder.glob(f".*{OLD}"):
        path = folder / old.name.removesuffix(OLD).rpartition(".")[0].removeprefix(".")
        if not path.exists():
            os.replace(old, path)
    for aside in folder.glob(".*.tmp"):
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink()


def check_folder(setting: str, folder: Path) -> None:
    """Raise ValueError if `folder` cannot be written to, or cannot be made; it is not made here."""
    nearest = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not nearest.is_dir():
        raise ValueError(f"{setting} is {folder} but {nearest} is a file: choose another {setting}.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{setting} is {folder} but {nearest} may not be written to: choose another {setting}.")


def save_json(path: Path, value: Any) -> None:
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Save as safetensors; metadata values become strings."""
    with written_aside(path) as aside:
        contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, aside, {key: str(value) for key, value in (metadata or {}).items()})


def _sync(path: Path) -> None:
    """Force what was written onto the disk, so that the rename cannot arrive before the content."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
