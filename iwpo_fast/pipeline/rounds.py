"""Rounds of the whole job: each draws completions from the model that the one before trained, and trains it further.

A round is a run of its own in a folder of its own, so it is kept, resumed and looked at as any other. Its reference is
the model that it begins from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from iwpo_fast.config import ModelConfig, RunConfig
from iwpo_fast.output_folder import ROUND
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.world import World


def run_rounds(config: RunConfig, run: Callable[..., None], *, force: bool = False) -> None:
    """All rounds, one after the other; those that are finished are passed over.

    Args:
        run: does one round.
        force: do every round again.

    Raises:
        ValueError: rounds would all see the same pairs, or the folder holds a run without rounds.
    """
    _check(config)
    world = World.start(config.device)
    for number in range(1, config.rounds + 1):
        world.say(f"\n==== round {number} of {config.rounds} ====")
        run(round_of(config, number), force=force)
        if config.dry_run and number < config.rounds:
            world.say("what later rounds do depends on the model that this one trains")
            return


def round_of(config: RunConfig, number: int) -> RunConfig:
    """The settings of round `number`, counted from 1; arms, and what is sent to the hub, are of the last one alone."""
    last = number == config.rounds
    return replace(
        config,
        rounds=1,
        model=config.model if number == 1 else _trained_by(config.model, folder_of(config, number - 1)),
        arms=config.arms if last else [],
        push_to_hub=config.push_to_hub if last else None,
        seed=config.seed + number - 1,
        output_dir=str(folder_of(config, number).path),
    )


def folder_of(config: RunConfig, number: int) -> PipelineFolder:
    return PipelineFolder(Path(config.output_dir) / f"{ROUND}{number}")


def _trained_by(model: ModelConfig, before: PipelineFolder) -> ModelConfig:
    """The model that the round before left: an adapter is trained further on the same base."""
    trained = str(before.training / "model")
    if model.lora is not None or model.adapter is not None:
        return replace(model, adapter=trained, lora=None)
    return replace(model, path=trained, revision=None)


def _check(config: RunConfig) -> None:
    if not config.candidates.per_prompt:
        raise ValueError(
            f"rounds is {config.rounds} and candidates.per_prompt is 0, so every round would see the same pairs: set "
            "per_prompt, or leave rounds out."
        )
    if config.model.lora is not None and config.model.adapter is not None:
        raise ValueError(
            "rounds with both model.lora and model.adapter would merge an adapter at every round: merge it first with "
            "iwpo merge, and give what that writes as model.path."
        )
    if config.model.path == "tiny" and config.model.lora is not None:
        raise ValueError("rounds with the tiny model train all of its weights: leave model.lora out.")
    if PipelineFolder(Path(config.output_dir)).manifest.exists():
        raise ValueError(f"{config.output_dir} holds a run without rounds: choose another output_dir.")
