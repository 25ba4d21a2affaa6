"""A training on types of annotators that takes seconds."""

from __future__ import annotations

from pathlib import Path

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

TINY = TinyConfig(vocab_size=300, hidden_size=32, layers=1, heads=2)


def config_in(folder: Path, votes: Path, **parts: object) -> TrainConfig:
    """Two rounds of 4 steps, no mixture; keywords replace whole parts of it."""
    settings: dict[str, object] = {
        "data": DataConfig(path=str(votes), eval_fraction=0.4, cache_dir=str(folder / "cache"), max_length=48),
        "model": ModelConfig(tiny=TINY, lora=LoraConfig(rank=2)),
        "objective": ObjectiveConfig(beta=1.0),
        "optim": OptimConfig(lr=1e-2, pairs_per_step=8, max_steps=4, epochs=4),
        "log": LogConfig(every=1),
        "checkpoint": CheckpointConfig(every=2),
        "types": TypesConfig(rounds=2, mixture_prompts=0),
        "output_dir": str(folder / "run"),
        "device": "cpu",
    }
    return TrainConfig(**(settings | parts))  # type: ignore[arg-type]
