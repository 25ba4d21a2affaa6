"""Where metrics go: always to `metrics.jsonl`, and to the chosen trackers, every step once after a kill too."""

from __future__ import annotations

import importlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from iwpo_fast.config import TrainConfig
from iwpo_fast.files import load_record, save_record, written_aside
from iwpo_fast.training.checkpoint import metrics_kept
from iwpo_fast.training.metrics import as_json
from iwpo_fast.training.run_folder import RunFolder


class Tracker(Protocol):
    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class JsonlTracker:
    """One JSON object a line; a resumed run first drops the lines after its checkpoint.

    A file that somebody removes while the run goes on is written again, from what is still behind the open one.

    Args:
        kept: the lines up to the checkpoint that the run goes on from; None takes those that are at `path`.
    """

    def __init__(self, path: Path, *, resumed_step: int, kept: list[str] | None = None) -> None:
        self._path = path
        lines = _lines_until(path, resumed_step) if resumed_step and kept is None else kept or []
        if lines or path.exists():
            self._write(lines)
        self._open()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if not self._path.exists():
            self._file.seek(0)
            lines = self._file.read().splitlines()
            self._file.close()
            self._write(lines)
            self._open()
        self._file.write(json.dumps({"step": step, **as_json(metrics)}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _open(self) -> None:
        self._file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115 - open for as long as the run

    def _write(self, lines: list[str]) -> None:
        with written_aside(self._path) as aside:
            aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


class TensorBoardTracker:
    """Event files; readers leave out what those of before a kill hold of later steps than the run goes on from."""

    def __init__(self, folder: Path, *, resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # A run that starts at the first step again leaves out all; the evaluation before that step has number 0.
        first = resumed_step + 1 if resumed_step else 0
        self._writer = SummaryWriter(str(folder), purge_step=first if folder.exists() else None)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class RunTracker:
    """Weights & Biases and trackio, which share an interface.

    Args:
        run: identifies the run to the tracker, for good; wandb goes on with a run by its `id`, trackio by its `name`.
        logged: the last step that it has already, and which is not logged again.
    """

    def __init__(self, module: str, run: Mapping[str, str], *, project: str, config: Any, logged: int) -> None:
        self._module = importlib.import_module(module)
        self._module.init(project=project, config=config, resume="allow", **run)
        self._logged = logged

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if step > self._logged:
            self._module.log(dict(metrics), step=step)

    def close(self) -> None:
        self._module.finish()


def open_trackers(config: TrainConfig, folder: RunFolder, *, resumed_step: int) -> list[Tracker]:
    """The trackers of a run that goes on after `resumed_step`, 0 for a run from the start."""
    logged = max(_last_step(folder.metrics), resumed_step) if resumed_step else -1
    kept = metrics_kept(folder.checkpoints) if resumed_step else None
    trackers: list[Tracker] = [JsonlTracker(folder.metrics, resumed_step=resumed_step, kept=kept)]
    for name in config.log.trackers:
        if name == "tensorboard":
            trackers.append(TensorBoardTracker(folder.path / "tensorboard", resumed_step=resumed_step))
        else:
            run = _run_of(folder, name, anew=not resumed_step)
            trackers.append(RunTracker(name, run, project=config.log.project, config=asdict(config), logged=logged))
    return trackers


def has_evaluation(path: Path, step: int) -> bool:
    """Whether the metrics at `path` have the evaluation after `step`, which a run that was asked to end leaves out."""
    return path.exists() and any(of == step and "eval_loss" in json.loads(line) for of, line in _lines(path))


def _run_of(folder: RunFolder, module: str, *, anew: bool) -> dict[str, str]:
    """What identifies the run to a tracker, kept in the folder so that a resume goes on with it."""
    if anew or not folder.tracked.exists():
        save_record(folder.tracked, {"id": uuid.uuid4().hex[:12]})
    number = load_record(folder.tracked)["id"]
    name = folder.path.resolve().name
    return {"id": number, "name": name} if module == "wandb" else {"name": f"{name}-{number}"}


def _last_step(path: Path) -> int:
    """The step of the last whole line; -1 where there is none."""
    return max((step for step, _ in _lines(path)), default=-1) if path.exists() else -1


def _lines_until(path: Path, step: int) -> list[str]:
    """Lines of the steps up to `step`."""
    return [line for of, line in _lines(path) if of <= step] if path.exists() else []


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Step and text of each line, without one that a kill cut short or that is damaged."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield int(json.loads(line)["step"]), line
        except (ValueError, KeyError, TypeError):
            continue
