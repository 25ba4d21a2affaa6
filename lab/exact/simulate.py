"""From a regime to what came of its policies, a few worlds at a time, each part kept in a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import iwpo_fast
from iwpo_fast.config import ClusterConfig, RewardConfig, WeightConfig
from lab.exact.arms import build_arms
from lab.exact.compare import Outcomes
from lab.exact.evaluate import MEASURES, evaluate
from lab.exact.policy import train
from lab.exact.regimes import Regime
from lab.exact.worlds import make_world

WORLDS_AT_ONCE = 10
LIBRARY = Path(iwpo_fast.__file__).parent
LABORATORY = ("worlds.py", "policy.py", "rewards.py", "arms.py", "candidates.py", "evaluate.py", "simulate.py")


def outcomes(regime: Regime, worlds: int, parts: Path, sources: str) -> Outcomes:
    """Trains all arms in `worlds` worlds from the first seed on, or reads what an earlier run left in `parts`."""
    made = []
    end = regime.first_seed + worlds
    for first in range(regime.first_seed, end, WORLDS_AT_ONCE):
        seeds = range(first, min(first + WORLDS_AT_ONCE, end))
        question = {"settings": asdict(regime.settings), "arms": regime.arms, "seeds": [*seeds]}
        question |= {"training": asdict(regime.training), "sources": sources}
        path = parts / f"{_digest(json.dumps(question, sort_keys=True).encode())}.json"
        if not path.exists():
            _write(path, _simulate(regime, seeds))
        made.append(json.loads(path.read_text()))
    return Outcomes(regime.arms, {name: np.concatenate([np.array(part[name]) for part in made]) for name in MEASURES})


def source_digest() -> str:
    """Of the code behind the numbers, so that parts by an older code are not taken for results of this one."""
    files = [Path(__file__).with_name(name) for name in LABORATORY]
    files += [file for folder in ("rewards", "importance") for file in sorted((LIBRARY / folder).glob("*.py"))]
    defaults = repr((ClusterConfig(), RewardConfig(), WeightConfig())).encode()
    return _digest(b"".join([defaults, *(file.read_bytes() for file in files)]))


def _simulate(regime: Regime, seeds: Sequence[int]) -> dict[str, Any]:
    """Each measure as a list of [W, A, 1 + budgets]."""
    worlds = [make_world(regime.settings, seed) for seed in seeds]
    arms = [build_arms(world, regime.arms, seed, regime.catalogue) for world, seed in zip(worlds, seeds, strict=True)]
    found = evaluate(train(worlds, arms, regime.training, seed=seeds[0]), worlds)
    return {name: values.double().numpy().round(6).tolist() for name, values in found.items()}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(content))
    unfinished.replace(path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]
