"""Tensors in the folder of a checkpoint: whole ones that rank 0 writes, or the parts that every rank has of them.

Both are safetensors, so that nothing that a folder from elsewhere holds is run. `torch.distributed.checkpoint` writes
the parts, and puts them together for any number of processes, sharded or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

from iwpo_fast import checksums
from iwpo_fast.files import save_tensors
from iwpo_fast.world import World

DAMAGED = (SafetensorError, dcp.CheckpointException, OSError, EOFError, ValueError, TypeError, KeyError)
"""What reading something incomplete raises."""

PARTS = "shard-*.safetensors"
"""Files that are there where each process has written its part."""

PICKLED = ".metadata"
"""The plan of parts that earlier versions wrote; it is not read, because it can run code."""

PART_BYTES = 1 << 32
"""All ranks' parts of one file each hold about so much together; a process has a copy of its part in memory."""

Groups = Mapping[str, Mapping[str, Tensor]]
"""Tensors by the name of their group and by their own."""


def save_whole(folder: Path, groups: Groups) -> None:
    for group, tensors in groups.items():
        save_tensors(folder / f"{group}.safetensors", tensors)


def save_parts(folder: Path, groups: Groups, world: World) -> dict[str, str]:
    """Write what each process has of sharded tensors, and others once; hashes of all files. All processes call it."""
    flat = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
    writer = dcp.HuggingFaceStorageWriter(str(folder), _number_of_file(flat), save_distributed=True)
    dcp.save(flat, storage_writer=writer)
    own = checksums.of_files(folder, folder.glob(PARTS.replace("*", f"{world.rank + 1:05}-*")))
    found: list[dict[str, str]] = [{}] * world.size
    dist.all_gather_object(found, own, group=world.waiting)
    return {name: digest for of_rank in found for name, digest in of_rank.items()}


def _number_of_file(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """From 1; the same on all ranks, because it goes by sizes of whole tensors."""
    numbers, size = {}, 0
    for name, tensor in tensors.items():
        numbers[name] = 1 + size // PART_BYTES
        size += tensor.numel() * tensor.element_size()
    return numbers


def refuse_pickled(folder: Path) -> None:
    """Raise ValueError if nothing but the plan of an earlier version says what the parts in the folder are."""
    if (folder / PICKLED).exists() and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder} is in parts with a pickled plan, as earlier versions wrote it, which is not read because it can "
            "run code: finish the run with the version that began it, or choose another output_dir."
        )


def stored_shapes(folder: Path, group: str) -> dict[str, torch.Size]:
    """Shapes of the tensors of a group, unsharded, by name."""
    if (whole := _whole(folder, group)).exists():
        with safe_open(whole, "pt") as file:
            return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    index = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    prefix = f"{group}/"
    return {
        name.removeprefix(prefix): entry.size
        for name, entry in index.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }


def read_stored(folder: Path, group: str, into: Mapping[str, Tensor]) -> None:
    """Fill tensors of any sharding or none with those of the same names. All processes must call it.

    Scales of blocks may lie in rows on one side alone: parts of them need rows.
    """
    if (whole := _whole(folder, group)).exists():
        with safe_open(whole, "pt") as file:
            for name, tensor in into.items():
                tensor.detach().copy_(_placed_like(tensor, file.get_tensor(name).view(tensor.shape)))
        return
    shapes = stored_shapes(folder, group)
    targets = {f"{group}/{name}": _shaped(tensor.detach(), shapes[name]) for name, tensor in into.items()}
    reader = dcp.HuggingFaceStorageReader(str(folder))
    dcp.load(targets, storage_reader=reader, no_dist=not dist.is_initialized())


def _whole(folder: Path, group: str) -> Path:
    return folder / f"{group}.safetensors"


def _shaped(tensor: Tensor, stored: torch.Size) -> Tensor:
    """The same memory in the stored shape, which is that of the tensor where it is in parts."""
    return tensor if tensor.shape == stored else tensor.view(stored)


def _placed_like(target: Tensor, value: Tensor) -> Tensor:
    if not isinstance(target, DTensor):
        return value
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
