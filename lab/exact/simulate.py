"""From a regime to what came of its policies, a few worlds at a time, each part kept in a file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import iwpo_fast
from iwpo_fast.config import ClusterConfig, RewardConfig, WeightConfig
from lab import experiment
from lab.exact.arms import build_arms
from lab.exact.compare import Outcomes
from lab.exact.evaluate import MEASURES, evaluate
from lab.exact.policy import train
from lab.exact.regimes import Regime
from lab.exact.worlds import make_world

WORLDS_AT_ONCE = 10
LIBRARY = Path(iwpo_fast.__file__).parent
SOURCES = ("worlds", "policy", "doubly_robust", "rewards", "arms", "candidates", "evaluate", "simulate")


def outcomes(regime: Regime, worlds: int, parts: Path, sources: str) -> Outcomes:
    """Train all arms in `worlds` worlds from the first seed on, or read what an earlier run left in `parts`."""
    made = []
    end = regime.first_seed + worlds
    for first in range(regime.first_seed, end, WORLDS_AT_ONCE):
        seeds = range(first, min(first + WORLDS_AT_ONCE, end))
        name = experiment.digest([], regime.settings, regime.arms, [*seeds], regime.training, sources)
        made.append(experiment.kept(parts / f"{name}.json", partial(_simulate, regime, seeds)))
    values = {name: np.concatenate([np.array(part[name]) for part in made]) for name in MEASURES}  # [W, A, 1 + budgets]
    return {arm: {name: values[name][:, i] for name in MEASURES} for i, arm in enumerate(regime.arms)}


def source_digest() -> str:
    """Of the code behind the numbers, with the defaults of the library."""
    files = [Path(__file__).with_name(f"{name}.py") for name in SOURCES]
    files += [
        file for folder in ("config", "rewards", "importance") for file in sorted((LIBRARY / folder).glob("*.py"))
    ]
    return experiment.digest(files, ClusterConfig(), RewardConfig(), WeightConfig())


def _simulate(regime: Regime, seeds: Sequence[int]) -> dict[str, Any]:
    """Each measure as a list of [W, A, 1 + budgets]."""
    worlds = [make_world(regime.settings, seed) for seed in seeds]
    arms = [build_arms(world, regime.arms, seed, regime.catalogue) for world, seed in zip(worlds, seeds, strict=True)]
    shared = [a for a, arm in enumerate(arms[0]) if arm.prompts is None]
    groups = [shared, *([a] for a in range(len(arms[0])) if a not in shared)]
    order = np.argsort(np.concatenate(groups))
    found = []
    for group in groups:
        policies = train(worlds, [[of_world[a] for a in group] for of_world in arms], regime.training, seed=seeds[0])
        found.append(evaluate(policies, worlds))
    return {
        name: torch.cat([part[name] for part in found], 1)[:, order].double().numpy().round(6).tolist()
        for name in MEASURES
    }
