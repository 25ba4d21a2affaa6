"""Files without a name for what may be larger than memory: they are mapped, and go with the process.

The system writes their pages to the disk and takes them back when it needs room. They lie where `TMPDIR` says, else in
/var/tmp, because /tmp is in memory on some systems.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import DTypeLike

LARGE = 4 << 20
"""Bytes from which on an array lies in a file."""


def scratch_file() -> IO[bytes]:
    """A new file, which the system takes back once it is closed and nothing maps it."""
    with room_is_needed():
        return tempfile.TemporaryFile(dir=_folder())


def mapped(file: IO[bytes]) -> mmap.mmap:
    """The content of a file that is not empty; it stays when the file is closed."""
    with room_is_needed():
        file.flush()
    return mmap.mmap(file.fileno(), 0)


def empty_array(size: int, dtype: DTypeLike) -> np.ndarray:
    """An array [size] to write to: in memory, or in a file if it is large."""
    length = size * np.dtype(dtype).itemsize
    if length < LARGE:
        return np.empty(size, dtype)
    with scratch_file() as file:
        with room_is_needed():
            _reserve(file, length)
        return np.frombuffer(mapped(file), dtype)


@contextmanager
def room_is_needed() -> Iterator[None]:
    """Turn what a full disk leads to into one sentence, as a ValueError."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{_folder()} does not take the rows while they are worked on ({error.strerror}): make room there, or set "
            "TMPDIR to a folder that has it."
        ) from error


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the room now, because a disk that is full later would kill whoever writes to the map."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def _folder() -> str:
    large = Path("/var/tmp")
    chosen = any(name in os.environ for name in ("TMPDIR", "TEMP", "TMP"))
    return tempfile.gettempdir() if chosen or not os.access(large, os.W_OK) else str(large)
