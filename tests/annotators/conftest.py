"""A training on types that takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from annotator_votes import write_votes

from iwpo_fast.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TinyConfig,
    TrainConfig,
    TypesConfig,
)

TINY = ModelConfig(tiny=TinyConfig(vocab_size=300, hidden_size=32, layers=1, heads=2), lora=LoraConfig(rank=2))


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    return write_votes(tmp_path / "votes.jsonl")


@pytest.fixture
def config(tmp_path: Path, votes: Path) -> Callable[..., TrainConfig]:
    """Two rounds of 4 steps, no mixture; keywords replace whole parts of it."""

    def make(**parts: object) -> TrainConfig:
        cache = str(tmp_path / "cache")
        settings: dict[str, object] = {
            "data": DataConfig(path=str(votes), eval_fraction=0.4, cache_dir=cache, max_length=48),
            "model": TINY,
            "objective": ObjectiveConfig(beta=1.0),
            "optim": OptimConfig(lr=1e-2, pairs_per_step=8, max_steps=4, epochs=4),
            "log": LogConfig(every=1),
            "checkpoint": CheckpointConfig(every=2),
            "types": TypesConfig(rounds=2, mixture_prompts=0),
            "output_dir": str(tmp_path / "run"),
            "device": "cpu",
        }
        return TrainConfig(**(settings | parts))  # type: ignore[arg-type]

    return make
