"""Checkpoints: everything that a step depends on, in safetensors and JSON, complete or not there at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Parameter

from iwpo_fast.files import save_json, save_tensors, written_aside


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
    *,
    keep: int,
) -> Path:
    """Write `folder/step-N` aside, rename it, then remove all but the newest `keep` checkpoints."""
    path = folder / f"step-{state.step:08d}"
    with written_aside(path) as aside:
        aside.mkdir()
        save_tensors(aside / "weights.safetensors", parameters)
        save_tensors(aside / "optimizer.safetensors", _optimizer_tensors(parameters, optimizer))
        save_json(aside / "state.json", asdict(state))
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))


def load_checkpoint(
    folder: Path,
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
) -> TrainState:
    """Restore the newest checkpoint in `folder`; a fresh state where there is none.

    Raises:
        ValueError: the checkpoint is damaged, or its parameters are not those of this model.
    """
    found = checkpoints(folder)
    if not found:
        return TrainState()
    newest = found[-1]
    try:
        weights = load_file(newest / "weights.safetensors")
        moments = load_file(newest / "optimizer.safetensors")
        state = TrainState(**json.loads((newest / "state.json").read_text(encoding="utf-8")))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"{newest} is damaged: delete this folder to resume from the checkpoint before.") from error
    if weights.keys() != parameters.keys() or any(weights[name].shape != p.shape for name, p in parameters.items()):
        raise ValueError(f"{newest} holds the weights of another model: choose another output_dir.")
    for name, parameter in parameters.items():
        parameter.data.copy_(weights[name])
        prefix = f"{name}/"
        saved = {key.removeprefix(prefix): value for key, value in moments.items() if key.startswith(prefix)}
        if saved:
            optimizer.state[parameter] = {
                key: value if key == "step" and not parameter.is_cuda else value.to(parameter.device)
                for key, value in saved.items()
            }
    return state


def load_weights(folder: Path, parameters: Mapping[str, Parameter]) -> None:
    """Give the parameters the weights of the newest checkpoint in `folder`."""
    weights = load_file(checkpoints(folder)[-1] / "weights.safetensors")
    for name, parameter in parameters.items():
        parameter.data.copy_(weights[name])


def _optimizer_tensors(parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
