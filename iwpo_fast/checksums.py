"""Hashes of the content that the library writes, so that no damaged byte is used later.

A record in JSON has its hash among its keys, a file of arrays in its metadata, and any other file in a record beside
it. All are XXH3 with 128 bits, which runs at the speed of memory and finds damage. It does not find forgery: whoever
can write a file can write its hash. What earlier versions wrote has no hash, and is read as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from xxhash import xxh3_128

if TYPE_CHECKING:
    from torch import Tensor

KEY = "xxh3"
"""The name of a hash in records and metadata."""

BLOCK = 1 << 22
"""Bytes of a file that are read at a time."""


class Damaged(ValueError):
    """A file does not hold what was written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is damaged: delete it, and what made it makes it again.")
        self.path = path


def of_file(path: Path) -> str:
    """Hash of the bytes of a file."""
    digest = xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def of_files(folder: Path, paths: Iterable[Path]) -> dict[str, str]:
    """Hash of each file, by its place in the folder."""
    return {path.relative_to(folder).as_posix(): of_file(path) for path in sorted(paths)}


def changed(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """Those of these files in the folder that are not what they were when the hashes were taken, or are gone."""
    return [name for name, known in hashes.items() if not (folder / name).is_file() or of_file(folder / name) != known]


def of_arrays(arrays: Mapping[str, np.ndarray] | Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> str:
    """Hash of the names, types, shapes and bytes of arrays on the host, and of what is said about them."""
    names = sorted(arrays)
    shapes = [[name, str(arrays[name].dtype).removeprefix("torch."), list(arrays[name].shape)] for name in names]
    digest = xxh3_128(_canonical([dict(about or {}), shapes]))
    for name in names:
        digest.update(_bytes(arrays[name]).data)
    return digest.hexdigest()


def signed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its hash."""
    return {**record, KEY: _of_record(record)}


def unsigned(record: dict[str, Any]) -> dict[str, Any] | None:
    """The record without its hash, if it has one; None where that is the hash of something else."""
    content = {name: value for name, value in record.items() if name != KEY}
    return content if record.get(KEY, _of_record(content)) == _of_record(content) else None


def _bytes(array: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    import torch  # NumPy lacks some of its types

    if not array.numel():  # strides of nothing may be 0, which have no view as bytes
        return np.empty(0, dtype=np.uint8)
    return array.contiguous().flatten().view(torch.uint8).numpy()


def _of_record(record: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(record))  # because keys that are numbers are text in a file, and sort as text
    return str(xxh3_128(_canonical(as_read)).hexdigest())


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
