"""Checkpoints: everything that a step depends on, complete or not there at all.

Where each process holds all weights, rank 0 writes safetensors; where they are sharded, every rank writes its part with
`torch.distributed.checkpoint`. Either can be resumed by any number of processes, sharded or not.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Parameter

from iwpo_fast.files import save_json, save_tensors, written_aside
from iwpo_fast.optimisation import begin_state
from iwpo_fast.world import World

DAMAGED = (SafetensorError, dcp.CheckpointException, OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError)
"""What reading something incomplete raises."""

PARTS = ".metadata"
"""A file that is there where each process has written its part."""


@dataclass
class TrainState:
    """Where a run stands. Data order and random numbers are functions of the seed and the step alone.

    Attributes:
        step: optimiser steps done, which is also the cursor into the data.
        pairs: pairs seen.
        tokens: tokens seen, both sequences of each pair.
        objective: running means that the objective keeps, by its name.
    """

    step: int = 0
    pairs: int = 0
    tokens: int = 0
    objective: dict[str, dict[str, float]] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    state: TrainState,
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
    world: World,
    *,
    keep: int,
) -> None:
    """Write `folder/step-N` aside, rename it, then remove all but the newest `keep` checkpoints.

    All ranks must call it.
    """
    path = folder / f"step-{state.step:08d}"
    groups: dict[str, Mapping[str, Tensor]] = {"weights": parameters, "optimizer": _moments(parameters, optimizer)}
    sharded = any(isinstance(parameter, DTensor) for parameter in parameters.values())
    if not (sharded or world.is_main):
        return
    with written_aside(path) if world.is_main else contextlib.nullcontext(path) as aside:
        if world.is_main:
            aside.mkdir()
            save_json(aside / "state.json", asdict(state))
        if sharded:
            _save_parts(world.from_main(aside), groups)
        else:
            for group, tensors in groups.items():
                save_tensors(aside / f"{group}.safetensors", tensors)
    for old in checkpoints(folder)[:-keep] if world.is_main else ():
        shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))


def load_checkpoint(folder: Path, parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer) -> TrainState:
    """Restore the newest checkpoint in `folder`; a fresh state where there is none. All ranks must call it.

    Raises:
        ValueError: the checkpoint is damaged, or its parameters are not those of this model.
    """
    if not (complete := checkpoints(folder)):
        return TrainState()
    newest = complete[-1]
    try:
        shapes, moment_shapes = (_stored_shapes(newest, group) for group in ("weights", "optimizer"))
        state = TrainState(**json.loads((newest / "state.json").read_text(encoding="utf-8")))
    except DAMAGED as error:
        raise _damaged(newest) from error
    if shapes != {name: parameter.shape for name, parameter in parameters.items()}:
        raise ValueError(f"{newest} holds the weights of another model: choose another output_dir.")
    with_moments = {key.rpartition("/")[0] for key in moment_shapes}
    for name, parameter in parameters.items():
        if name in with_moments:
            begin_state(optimizer, parameter)
    moments = _moments(parameters, optimizer)
    try:
        _read_stored(newest, "weights", parameters)
        _read_stored(newest, "optimizer", moments)
    except DAMAGED as error:
        raise _damaged(newest) from error
    _restore_numbers(parameters, optimizer, moments)
    return state


def load_weights(folder: Path, parameters: Mapping[str, Parameter]) -> None:
    """Give the parameters the weights of the newest checkpoint in `folder`. All ranks must call it."""
    _read_stored(checkpoints(folder)[-1], "weights", parameters)


def _moments(parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser keeps of each parameter, without the shared 8-bit lookup tables."""
    return {
        f"{name}/{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if not key.startswith("qmap")
    }


def _restore_numbers(
    parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]
) -> None:
    """Give the optimiser what it keeps as plain integers, which reading into tensors does not reach."""
    for name, parameter in parameters.items():
        known = optimizer.state.get(parameter, {})
        known |= {key: int(moments[f"{name}/{key}"]) for key, value in known.items() if isinstance(value, int)}


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is damaged: delete this folder to resume from the checkpoint before.")


def _save_parts(folder: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write what each process has of sharded tensors, and others once. All processes must call it."""
    flat = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
    dcp.save(flat, checkpoint_id=folder)


def _stored_shapes(folder: Path, group: str) -> dict[str, torch.Size]:
    """Shapes of the tensors of a group, unsharded, by name."""
    if not (folder / PARTS).exists():
        with safe_open(folder / f"{group}.safetensors", "pt") as file:
            return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    index = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    prefix = f"{group}/"
    return {
        name.removeprefix(prefix): entry.size
        for name, entry in index.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }


def _read_stored(folder: Path, group: str, into: Mapping[str, Tensor]) -> None:
    """Fill tensors of any sharding or none with those of the same names. All processes must call it."""
    if (folder / PARTS).exists():
        targets = {f"{group}/{name}": tensor.detach() for name, tensor in into.items()}
        dcp.load(targets, checkpoint_id=folder, no_dist=not dist.is_initialized())
        return
    with safe_open(folder / f"{group}.safetensors", "pt") as file:
        for name, tensor in into.items():
            tensor.detach().copy_(_placed_like(tensor, file.get_tensor(name)))


def _placed_like(target: Tensor, value: Tensor) -> Tensor:
    if not isinstance(target, DTensor):
        return value
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
