"""Trackers have every step of a run once, whatever was logged before a kill; `metrics.jsonl` is JSON."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iwpo_fast.config import DataConfig, LogConfig, TrainConfig
from iwpo_fast.training.run_folder import RunFolder
from iwpo_fast.training.summary import TrainSummary
from iwpo_fast.training.trackers import open_trackers


class Recorder:
    """Stands in for the module of a tracker: keeps what it was called with."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.steps: list[int] = []

    def module(self) -> SimpleNamespace:
        return SimpleNamespace(
            init=lambda **keywords: self.runs.append(keywords),
            log=lambda metrics, step: self.steps.append(step),
            finish=lambda: None,
        )


def config(folder: Path, *trackers: str) -> TrainConfig:
    return TrainConfig(DataConfig("x"), log=LogConfig(trackers=list(trackers)), output_dir=str(folder))  # type: ignore[arg-type]


def log(folder: Path, name: str, steps: range, *, resumed: int) -> None:
    folder.mkdir(exist_ok=True)
    trackers = open_trackers(config(folder, name), RunFolder(folder), resumed_step=resumed)
    for step in steps:
        for tracker in trackers:
            tracker.log({"loss": float(step)}, step)
    for tracker in trackers:
        tracker.close()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_goes_on_as_the_same_run_without_a_step_twice(tmp_path, monkeypatch, name) -> None:
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, name, recorder.module())
    log(tmp_path / "run", name, range(1, 6), resumed=0)
    log(tmp_path / "run", name, range(3, 9), resumed=2)
    assert recorder.steps == list(range(1, 9))
    first, second = recorder.runs
    assert first == second and first["resume"] == "allow"
    log(tmp_path / "run", name, range(1, 2), resumed=0)
    log(tmp_path / "other", name, range(1, 2), resumed=0)
    key = "id" if name == "wandb" else "name"
    assert len({run[key] for run in recorder.runs}) == 3
    assert recorder.steps[8:] == [1, 1]


@pytest.mark.parametrize("resumed", [0, 1, 2])
def test_tensorboard_shows_each_step_once(tmp_path, resumed) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log(tmp_path / "run", "tensorboard", range(1, 5), resumed=0)
    log(tmp_path / "run", "tensorboard", range(resumed + 1, 6), resumed=resumed)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_lines_are_json_where_a_number_is_not_finite(tmp_path, value) -> None:
    (tracker,) = open_trackers(config(tmp_path), RunFolder(tmp_path), resumed_step=0)
    tracker.log({"loss": value, "grad_norm": 1.0}, 1)
    tracker.close()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse) == {"step": 1, "loss": None, "grad_norm": 1.0}


def test_a_summary_keeps_what_is_not_finite_as_null_and_reads_it_as_nan(tmp_path) -> None:
    numbers = {"eval_loss": math.nan, "eval_rewards/accuracies": 0.5}
    TrainSummary("runs/a", 1, 4, numbers, numbers).save(tmp_path / "summary.json")
    assert "NaN" not in (tmp_path / "summary.json").read_text()
    loaded = TrainSummary.load(tmp_path / "summary.json")
    assert math.isnan(loaded.after["eval_loss"]) and "loss nan before" in loaded.lines()[1]
