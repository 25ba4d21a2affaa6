"""The tensors of a checkpoint: whole ones in safetensors, or the parts of each process."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

from iwpo_fast.files import save_tensors

Groups = Mapping[str, Mapping[str, Tensor]]
"""Tensors by name, in groups such as `weights` and `optimizer`."""

DAMAGED = (SafetensorError, dcp.CheckpointException, OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError)
"""What reading something raises that is not whole."""


class StoredTensors(Protocol):
    """Tensors in a folder, to be read into tensors of any sharding or none."""

    def shapes(self, group: str) -> dict[str, torch.Size]:
        """Shapes of the whole tensors of a group, by name."""

    def read(self, group: str, into: Mapping[str, Tensor]) -> None:
        """Fill the given tensors with those of the same names. All processes must call it."""


def save_whole(folder: Path, groups: Groups) -> None:
    """Write tensors of which this process has all."""
    for group, tensors in groups.items():
        save_tensors(folder / f"{group}.safetensors", tensors)


def save_parts(folder: Path, groups: Groups) -> None:
    """Write what each process has of sharded tensors, and others once. All processes must call it."""
    flat = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
    dcp.save(flat, checkpoint_id=folder)


def open_stored(folder: Path) -> StoredTensors:
    """What either of the two has written."""
    return _Parts(folder) if (folder / ".metadata").exists() else _Whole(folder)


class _Whole:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def shapes(self, group: str) -> dict[str, torch.Size]:
        with safe_open(self._path(group), "pt") as file:
            return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    def read(self, group: str, into: Mapping[str, Tensor]) -> None:
        with safe_open(self._path(group), "pt") as file:
            for name, tensor in into.items():
                tensor.detach().copy_(_placed_like(tensor, file.get_tensor(name)))

    def _path(self, group: str) -> Path:
        return self._folder / f"{group}.safetensors"


class _Parts:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata

    def shapes(self, group: str) -> dict[str, torch.Size]:
        prefix = f"{group}/"
        return {
            name.removeprefix(prefix): entry.size
            for name, entry in self._index.items()
            if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
        }

    def read(self, group: str, into: Mapping[str, Tensor]) -> None:
        targets = {f"{group}/{name}": tensor.detach() for name, tensor in into.items()}
        dcp.load(targets, checkpoint_id=self._folder, no_dist=not dist.is_initialized())


def _placed_like(target: Tensor, value: Tensor) -> Tensor:
    if not isinstance(target, DTensor):
        return value
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
