"""Files that hold what was written: a kill leaves the old content or the new, and damage is found by a hash."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from iwpo_fast import checksums
from iwpo_fast.checksums import Damaged

if TYPE_CHECKING:
    from torch import Tensor

OLD = ".old.tmp"

ABOUT = "iwpo"
"""The one entry of the metadata of our safetensors, because several would be written in any order."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or folder at; it takes the place of `path` when the body ends.

    A file is replaced at once. A folder is absent between two renames; `remove_leftovers` brings the old one back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield aside
        _settle(aside)
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


def save_record(path: Path, record: Mapping[str, Any]) -> None:
    """Save as JSON that `load_record` reads, with a hash among its keys."""
    save_json(path, checksums.signed(record))


def load_record(path: Path) -> dict[str, Any]:
    """What `save_record` wrote, without the hash.

    Raises:
        Damaged: it holds something else.
        FileNotFoundError: it is not there.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        content = checksums.unsigned(record) if isinstance(record, dict) else None
    except (ValueError, RecursionError) as error:
        raise Damaged(path) from error
    if content is None:
        raise Damaged(path)
    return content


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Save as safetensors that `load_tensors` reads, with a hash in the metadata, whose values become strings."""
    from safetensors.torch import save_file

    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {key: str(value) for key, value in (metadata or {}).items()}
    about[checksums.KEY] = checksums.of_arrays(on_host, about)
    with written_aside(path) as aside:
        save_file(on_host, aside, {ABOUT: json.dumps(about, sort_keys=True)})


def load_tensors(path: Path) -> dict[str, np.ndarray]:
    """What `save_tensors` wrote; errors are those of `load_with_metadata`."""
    return load_with_metadata(path)[0]


def load_with_metadata(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata that `save_tensors` wrote, whatever bits of it were.

    Raises:
        Damaged: the file holds something else.
        FileNotFoundError: it is not there.
        ValueError: it may not be read.
    """
    check_readable(path)
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found = file.metadata() or {}
        about = json.loads(found[ABOUT]) if ABOUT in found else found  # earlier versions had an entry for each
        known = about.pop(checksums.KEY, None)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(path) from error
    if known is not None and known != checksums.of_arrays(arrays, about):
        raise Damaged(path)
    return arrays, about


def check_readable(path: Path) -> None:
    """Raise ValueError if the file is there but may not be read: loaders would say that it is not there."""
    try:
        open(path, "rb").close()
    except PermissionError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): have its owner open it to you, or choose another folder, which "
            "for a cache is data.cache_dir."
        ) from error


def _settle(path: Path) -> None:
    """Give files the permissions that the umask leaves, and force them onto the disk before they get their name."""
    permissions = _usual_permissions()
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            if file.stat().st_nlink == 1:  # what has another name is another's, and has its permissions already
                file.chmod(permissions)
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())


def _usual_permissions() -> int:
    """Those of a new file by the umask, which cannot be read without being set; safetensors makes its files private."""
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask
