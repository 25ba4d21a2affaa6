"""From a job to the path of its policy: KL, gold reward and win rate at every scale of its log-ratio."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from iwpo_fast.evaluation.preference import wins
from iwpo_fast.models import Policy
from lab.exact.candidates import CATALOGUE
from lab.exact.rewards import REWARD_MODELS, Floats, PairScores
from lab.language_model.rewards import score
from lab.language_model.sampling import kl_along
from lab.language_model.settings import LabSettings
from lab.language_model.training import train_arm
from lab.language_model.world import TASK_NUMBER, LabWorld, make_world, sampled_gold, supervise


def laboratory(settings: LabSettings, folder: Path) -> Callable[[int, str], dict[str, list[float]]]:
    """What trains an arm in the world of a seed, and gives lists over the scales of what `measure` finds.

    It keeps the world of the last seed and its reward models, because jobs come seed by seed.
    """

    @lru_cache(maxsize=1)
    def world_of(seed: int) -> LabWorld:
        return make_world(settings, seed, supervise(settings, folder), folder / f"seed-{seed}")

    @lru_cache(maxsize=len(REWARD_MODELS) + 1)
    def scores_of(seed: int, model: str) -> PairScores:
        return score(world_of(seed), model)

    def run(seed: int, arm: str) -> dict[str, list[float]]:
        world, chosen = world_of(seed), CATALOGUE[arm]
        policy = train_arm(world, chosen.build(scores_of(seed, chosen.model), seed), settings)
        path: dict[str, list[float]] = {}
        for scale in settings.scales:
            for name, value in measure(world, policy, scale, settings).items():
                path.setdefault(name, []).append(round(value, 6))
        return path

    return run


def measure(world: LabWorld, policy: Policy, scale: float, settings: LabSettings) -> dict[str, float]:
    """KL, gain of gold reward, the same in units of each task's spread, and the win rate, on held-out prompts.

    A completion wins against those that the supervised policy gave for the same prompt, ties half.
    """
    with world.policy.plain_attention() as reference:
        gold, samples = sampled_gold(
            policy, world.tokenizer, world.test, settings, world.seed, reference=reference, scale=scale
        )
        kl = kl_along(samples, reference)
    spread = world.scale[np.array([TASK_NUMBER[row["task"]] for row in world.test])]
    gain = gold - world.start
    return {
        "scale": scale,
        "kl": float(kl.double().mean()),
        "gold": float(gain.mean()),
        "scaled_gold": float((gain / spread).mean()),
        "win_rate": win_rate(gold.reshape(-1, settings.samples), world.start.reshape(-1, settings.samples)),
        "words": float(np.mean([len(text.split()) for text in samples.texts(world.tokenizer)])),
    }


def win_rate(gold: Floats, start: Floats) -> float:
    """Share of couples [prompts, samples] x [prompts, samples] of one prompt that the first wins, ties half."""
    return float(wins(gold[:, :, None] - start[:, None, :]).mean())
