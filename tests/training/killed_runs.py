"""Runs of the command `iwpo train` that are killed at a chosen moment."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import run_forked

from iwpo_fast.config import TrainConfig
from iwpo_fast.training import loop, stored_tensors


def run_killed(config: TrainConfig, sabotage: Callable[[], None], folder: Path) -> None:
    """Train until the process is killed, which it has to be.

    Args:
        sabotage: called in that process first.
        folder: for the recipe.
    """
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    done = run_forked(_train, recipe, sabotage)
    assert done.exitcode == -signal.SIGKILL, done.said


def _train(recipe: Path, sabotage: Callable[[], None]) -> None:
    from iwpo_fast.cli import main

    sabotage()
    main(["train", "--config", str(recipe)])


def kill_during_training() -> None:
    """In the fifth step."""
    step, calls = loop.train_step, []

    def killed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)

    loop.train_step = killed


def kill_during_a_save() -> None:
    """The weights of the second checkpoint are written, its optimiser is not."""
    save, calls = stored_tensors.save_tensors, []

    def killed(path: Path, *arguments: Any) -> None:
        save(path, *arguments)
        calls.append(path)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    stored_tensors.save_tensors = killed
