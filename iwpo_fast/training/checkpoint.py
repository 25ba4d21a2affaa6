"""Checkpoints: everything that a step depends on, complete and undamaged, or not taken.

`state.json` has the hash of every file of tensors beside it, and one of its own. `metrics.json` has the metrics up to
the checkpoint apart, because they hold times: everything else is the same bytes whenever a run is made.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from iwpo_fast import checksums
from iwpo_fast.checksums import Damaged
from iwpo_fast.files import load_record, save_record, written_aside
from iwpo_fast.optimisation import begin_state
from iwpo_fast.training.run_folder import RunFolder
from iwpo_fast.training.stored_tensors import (
    DAMAGED,
    read_stored,
    refuse_pickled,
    save_parts,
    save_whole,
    stored_shapes,
)
from iwpo_fast.world import World

RECORD, METRICS = "state.json", "metrics.json"


class Best(NamedTuple):
    """The best evaluation so far: its step, the value of the metric, and how many evaluations have come since."""

    step: int
    value: float
    waited: int = 0


@dataclass
class TrainState:
    """Where a run stands. Data order and random numbers are functions of the seed and the step alone.

    Attributes:
        step: optimiser steps done, which is also the cursor into the data.
        pairs: pairs seen.
        tokens: tokens seen, both sequences of each pair.
        objective: running means that the objective keeps, by its name.
        best: the best evaluation, where `checkpoint.best` asks for one.
        stopped_early: whether no step is to come, though there are some left.
        drawn: token ids of the completions that the policy has drawn last, where it draws some (`sampled_kl`).
    """

    step: int = 0
    pairs: int = 0
    tokens: int = 0
    objective: dict[str, dict[str, float]] = field(default_factory=dict)
    best: Best | None = None
    stopped_early: bool = False
    drawn: list[list[int]] = field(default_factory=list)

    def count(self, pairs: int, tokens: int) -> None:
        """Count a step that has been done."""
        self.step += 1
        self.pairs += pairs
        self.tokens += tokens

    @classmethod
    def of(cls, record: dict[str, Any]) -> TrainState:
        """What `record` gave."""
        best = record.get("best")
        return cls(**record | {"best": None if best is None else Best(*best)})

    def record(self) -> dict[str, Any]:
        """The fields as JSON can hold them, without those of a run that keeps no best model, goes to its end and draws
        nothing."""
        later = ("best", "stopped_early", "drawn")
        return {name: value for name, value in asdict(self).items() if name not in later or value}


def save_checkpoint(
    folder: RunFolder,
    state: TrainState,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    world: World,
    *,
    keep: int,
) -> None:
    """Write `step-N` aside, with the metrics up to here, rename it, then remove all but the newest `keep` checkpoints.

    Those that the newest name as the best stay too. All ranks must call it.
    """
    path = checkpoint_of(folder.checkpoints, state.step)
    groups: dict[str, Mapping[str, Tensor]] = {"weights": parameters, "optimizer": _moments(parameters, optimizer)}
    sharded = any(isinstance(parameter, DTensor) for parameter in parameters.values())
    if not (sharded or world.is_main):
        return
    with written_aside(path) if world.is_main else contextlib.nullcontext(path) as aside:
        if world.is_main:
            aside.mkdir()
        parts = save_parts(world.from_main(aside), groups, world) if sharded else {}
        if world.is_main:
            if not sharded:
                save_whole(aside, groups)
            hashes = parts if sharded else checksums.of_files(aside, aside.iterdir())
            save_record(aside / RECORD, state.record() | {"files": hashes})
            if folder.metrics.exists():
                lines = folder.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
                save_record(aside / METRICS, {"lines": lines})
    if world.is_main:
        remove_old(folder.checkpoints, keep)


def remove_old(folder: Path, keep: int) -> None:
    """Keep the newest, and those that they name as the best, so that a run can go on from each of the newest.

    A run that goes on does it too, because it may have been killed behind its last checkpoint, before it did.
    """
    newest = checkpoints(folder)[-keep:]
    kept = {*newest, *map(_best_of, newest)}
    for path in checkpoints(folder):
        if path not in kept:
            shutil.rmtree(path)


def _best_of(path: Path) -> Path | None:
    """The checkpoint that this one names as the best; None if it names none, or is damaged."""
    try:
        best = TrainState.of({"best": load_record(path / RECORD).get("best")}).best
    except DAMAGED:
        return None
    return None if best is None else checkpoint_of(path.parent, best.step)


def checkpoint_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))


def metrics_kept(folder: Path) -> list[str] | None:
    """Lines of the metrics up to the newest checkpoint in `folder`; None where it has none, as in earlier versions."""
    newest = checkpoints(folder)[-1:]
    return next((_metrics_in(path) for path in newest if (path / METRICS).exists()), None)


def _metrics_in(path: Path) -> list[str]:
    lines: list[str] = load_record(path / METRICS)["lines"]
    return lines


def load_checkpoint(
    folder: Path, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, world: World
) -> TrainState:
    """Restore the newest checkpoint in `folder`; a fresh state where there is none. All ranks must call it.

    Raises:
        ValueError: the checkpoint is damaged, or its parameters are not those of this model.
    """
    if not (complete := checkpoints(folder)):
        return TrainState()
    newest = complete[-1]
    refuse_pickled(newest)
    try:
        state = TrainState.of(_checked_record(newest, world))
        shapes, moment_shapes = (stored_shapes(newest, group) for group in ("weights", "optimizer"))
    except DAMAGED as error:
        raise _damaged(newest) from error
    if shapes != {name: parameter.shape for name, parameter in parameters.items()}:
        raise ValueError(f"{newest} holds the weights of another model: choose another output_dir.")
    with_moments = {key.rpartition("/")[0] for key in moment_shapes}
    for name, parameter in parameters.items():
        if name in with_moments:
            begin_state(optimizer, cast(Parameter, parameter))
    moments = _moments(parameters, optimizer)
    _check_split(newest, moments, moment_shapes)
    try:
        read_stored(newest, "weights", parameters)
        read_stored(newest, "optimizer", moments)
    except DAMAGED as error:
        raise _damaged(newest) from error
    _restore_numbers(parameters, optimizer, moments)
    return state


def load_weights(folder: Path, parameters: Mapping[str, Tensor], world: World) -> None:
    """Give the parameters the weights of the run's model: of its best checkpoint, or else of the newest in `folder`.

    All ranks must call it.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    world.barrier()  # the first process may not have renamed the newest yet, and then removes those before
    path = checkpoints(folder)[-1]
    refuse_pickled(path)
    try:
        state = TrainState.of(_checked_record(path, world))
        if state.best is not None and state.best.step != state.step:
            path = checkpoint_of(folder, state.best.step)
            _checked_record(path, world)
        stored_shapes(path, "weights")
        read_stored(path, "weights", parameters)
    except DAMAGED as error:
        raise _damaged(path) from error


def _checked_record(path: Path, world: World) -> dict[str, Any]:
    """The fields of the state. Each rank looks at some of the files, and all raise if one of them is damaged."""
    record = load_record(path / RECORD)
    files: dict[str, str] = record.pop("files", {})  # earlier versions kept no hashes
    own = list(files)[world.rank :: world.size]
    if world.largest(bool(checksums.changed(path, {name: files[name] for name in own}))):
        raise Damaged(path)
    if (path / METRICS).exists():
        _metrics_in(path)
    return record


def _moments(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser keeps of each parameter, without the shared 8-bit lookup tables."""
    return {
        f"{name}/{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if not key.startswith("qmap")
    }


def _check_split(path: Path, moments: Mapping[str, Tensor], stored: Mapping[str, torch.Size]) -> None:
    """Raise ValueError if a parameter has moments of 8 bits in the checkpoint or in the optimiser, but not in both."""
    for key in sorted(moments.keys() ^ stored.keys()):
        name, _, kept = key.rpartition("/")
        if kept.startswith("absmax"):
            raise ValueError(
                f"{path} holds moments of {name} that have 8 bits where processes have the whole of it, and 32 where "
                "they share it: set shard_over to 1 if it was 1 so far, and else to more."
            )


def _restore_numbers(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]
) -> None:
    """Give the optimiser what it keeps as plain integers, which reading into tensors does not reach."""
    for name, parameter in parameters.items():
        known = optimizer.state.get(parameter, {})
        known |= {key: int(moments[f"{name}/{key}"]) for key, value in known.items() if isinstance(value, int)}


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is damaged: delete this folder to resume from the checkpoint before.")
