"""Where metrics go: always to `metrics.jsonl`, and to the chosen trackers."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from iwpo_fast.config import TrainConfig
from iwpo_fast.files import written_aside
from iwpo_fast.training.run_folder import RunFolder


class Tracker(Protocol):
    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class JsonlTracker:
    """One JSON object a line; a resumed run first drops the lines after its checkpoint."""

    def __init__(self, path: Path, *, resumed_step: int) -> None:
        if path.exists():
            kept = _lines_until(path, resumed_step) if resumed_step else []
            with written_aside(path) as aside:
                aside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for as long as the run

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoardTracker:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class RunTracker:
    """Weights & Biases and trackio, which share an interface."""

    def __init__(self, module: str, *, project: str, name: str, config: Mapping[str, Any]) -> None:
        self._module = importlib.import_module(module)
        self._module.init(project=project, name=name, config=dict(config))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._module.log(dict(metrics), step=step)

    def close(self) -> None:
        self._module.finish()


def open_trackers(config: TrainConfig, folder: RunFolder, *, resumed_step: int) -> list[Tracker]:
    """The trackers of a run that goes on after `resumed_step`, 0 for a run from the start."""
    trackers: list[Tracker] = [JsonlTracker(folder.metrics, resumed_step=resumed_step)]
    for name in config.log.trackers:
        if name == "tensorboard":
            trackers.append(TensorBoardTracker(folder.path))
        else:
            name_of_run = folder.path.resolve().name
            trackers.append(RunTracker(name, project=config.log.project, name=name_of_run, config=asdict(config)))
    return trackers


def _lines_until(path: Path, step: int) -> list[str]:
    """Lines of the steps up to `step`, without a line that a kill cut short."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return kept
