"""A small preference data set and a configuration that trains on it in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from toy_pairs import write_pairs

from iwpo_fast.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    TinyConfig,
    TrainConfig,
)


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl", rows=40)


@pytest.fixture
def config(tmp_path: Path, pairs_file: Path) -> Callable[..., TrainConfig]:
    """A configuration of 8 steps of 8 pairs; keywords replace whole parts of it."""

    def make(**parts: object) -> TrainConfig:
        settings: dict[str, object] = {
            "data": DataConfig(path=str(pairs_file), eval_fraction=0.2, cache_dir=str(tmp_path / "cache")),
            "model": ModelConfig(tiny=TinyConfig(vocab_size=320, hidden_size=32, layers=2, heads=2)),
            "optim": OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=8, epochs=4),
            "log": LogConfig(every=1),
            "checkpoint": CheckpointConfig(every=3),
            "output_dir": str(tmp_path / "run"),
            "device": "cpu",
        }
        return TrainConfig(**(settings | parts))  # type: ignore[arg-type]

    return make
