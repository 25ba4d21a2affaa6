"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

LOCK = "run.lock"
_held: set[Path] = set()


def hold_folder(folder: Path) -> None:
    """Hold `folder`, which exists, until this process ends, however it ends.

    Raises:
        ValueError: another process holds it.
    """
    path = (folder / LOCK).resolve()
    if path in _held and path.exists():
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ValueError(
            f"another process is running in {folder}: wait for it, or choose another output_dir."
        ) from None
    _held.add(path)
