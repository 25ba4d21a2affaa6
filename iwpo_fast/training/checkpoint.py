"""Checkpoints: everything that a step depends on, complete or not there at all.

Where each process holds all weights, rank 0 writes safetensors; where they are sharded, every rank writes its part with
`torch.distributed.checkpoint`. Either can be resumed by any number of processes, sharded or not.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from iwpo_fast.files import save_json, written_aside
from iwpo_fast.training.optimizer import begin_state
from iwpo_fast.training.stored_tensors import DAMAGED, open_stored, save_parts, save_whole
from iwpo_fast.world import World


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
    tensors = {"weights": parameters, "optimizer": _moments(parameters, optimizer)}
    sharded = any(isinstance(parameter, DTensor) for parameter in parameters.values())
    if not (sharded or world.is_main):
        return
    with written_aside(path) if world.is_main else contextlib.nullcontext(path) as aside:
        if world.is_main:
            aside.mkdir()
            save_json(aside / "state.json", asdict(state))
        if sharded:
            save_parts(world.from_main(aside), tensors)
        else:
            save_whole(aside, tensors)
    if world.is_main:
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))


def load_checkpoint(
    folder: Path,
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
) -> TrainState:
    """Restore the newest checkpoint in `folder`; a fresh state where there is none. All ranks must call it.

    Raises:
        ValueError: the checkpoint is damaged, or its parameters are not those of this model.
    """
    found = checkpoints(folder)
    if not found:
        return TrainState()
    newest = found[-1]
    try:
        stored = open_stored(newest)
        shapes, moment_shapes = stored.shapes("weights"), stored.shapes("optimizer")
        state = TrainState(**json.loads((newest / "state.json").read_text(encoding="utf-8")))
    except DAMAGED as error:
        raise _damaged(newest) from error
    if shapes != {name: parameter.shape for name, parameter in parameters.items()}:
        raise ValueError(f"{newest} holds the weights of another model: choose another output_dir.")
    for name, parameter in parameters.items():
        prefix = f"{name}/"
        if any(key.startswith(prefix) for key in moment_shapes):
            begin_state(optimizer, parameter)
    try:
        moments = _moments(parameters, optimizer)
        stored.read("weights", parameters)
        stored.read("optimizer", moments)
    except DAMAGED as error:
        raise _damaged(newest) from error
    for name, parameter in parameters.items():
        known = optimizer.state.get(parameter, {})
        known |= {key: int(moments[f"{name}/{key}"]) for key, value in known.items() if isinstance(value, int)}
    return state


def load_weights(folder: Path, parameters: Mapping[str, Parameter]) -> None:
    """Give the parameters the weights of the newest checkpoint in `folder`. All ranks must call it."""
    open_stored(checkpoints(folder)[-1]).read("weights", parameters)


def _moments(parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser knows of each parameter, but for tables by which all moments of 8 bits are read."""
    return {
        f"{name}/{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if not key.startswith("qmap")
    }


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is damaged: delete this folder to resume from the checkpoint before.")
