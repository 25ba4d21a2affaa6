"""From a job to the path of its policy: KL, gold reward and win rate at every scale of its log-ratio."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.models import Policy
from lab.exact.arms import ARMS
from lab.exact.rewards import PairScores
from lab.language_model.rewards import score
from lab.language_model.sampling import kl_along
from lab.language_model.settings import LabSettings
from lab.language_model.training import train_arm
from lab.language_model.world import TASK_NUMBER, LabWorld, make_world, sampled_gold, supervise

Floats = NDArray[np.float64]


@dataclass
class Laboratory:
    """Keeps the world of the last seed and its reward models, as jobs come seed by seed."""

    settings: LabSettings
    folder: Path
    _scores: dict[tuple[int, str], PairScores] = field(default_factory=dict)
    _world: LabWorld | None = None

    def run(self, seed: int, arm: str) -> dict[str, list[float]]:
        """Train an arm; lists over the scales, as in `measure`."""
        world = self._world_of(seed)
        data = ARMS[arm].build(self._scores_of(world, ARMS[arm].model), seed)
        path: dict[str, list[float]] = {}
        policy = train_arm(world, data, self.settings)
        for scale in self.settings.scales:
            for name, value in measure(world, policy, scale, self.settings).items():
                path.setdefault(name, []).append(round(value, 6))
        return path

    def _world_of(self, seed: int) -> LabWorld:
        if self._world is None or self._world.seed != seed:
            self._world = make_world(
                self.settings, seed, supervise(self.settings, self.folder), self.folder / f"seed-{seed}"
            )
            self._scores.clear()
        return self._world

    def _scores_of(self, world: LabWorld, model: str) -> PairScores:
        key = (world.seed, model)
        if key not in self._scores:
            self._scores[key] = score(world, model)
        return self._scores[key]


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
    mine, theirs = gold[:, :, None], start[:, None, :]
    return float(((mine > theirs) + 0.5 * (mine == theirs)).mean())
