"""From a regime to the paths of its policies, a few worlds at a time, each part kept in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import iwpo_fast
from benchmarks.quality.exact.arms import build_arms
from benchmarks.quality.exact.compare import START, Paths
from benchmarks.quality.exact.policy import TrainSettings, evaluate, train
from benchmarks.quality.exact.regimes import Regime
from benchmarks.quality.exact.worlds import make_world

WORLDS_AT_ONCE = 10
LIBRARY = Path(iwpo_fast.__file__).parent
SOURCES = (Path(__file__).parent, LIBRARY / "rewards", LIBRARY / "importance")
MAKING_PATHS = ("worlds.py", "policy.py", "arms.py", "rewards.py", "simulate.py")


def paths_of(regime: Regime, worlds: int, settings: TrainSettings, parts: Path, sources: str) -> Paths:
    """Trains all arms in worlds 0 to `worlds` - 1, or reads what an earlier run left in `parts`."""
    made = []
    for first in range(0, worlds, WORLDS_AT_ONCE):
        seeds = range(first, min(first + WORLDS_AT_ONCE, worlds))
        question = {"settings": asdict(regime.settings), "arms": regime.arms, "seeds": [*seeds]}
        question |= {"training": asdict(settings), "sources": sources}
        path = parts / f"{_digest(json.dumps(question, sort_keys=True).encode())}.json"
        if not path.exists():
            _write(path, _simulate(regime, seeds, settings))
        made.append(json.loads(path.read_text()))
    columns = {name: np.concatenate([np.array(part[name]) for part in made]) for name in ("kl", *START)}
    return Paths(regime.arms, columns.pop("kl"), columns)


def source_digest() -> str:
    """Of the code that makes paths, so that parts of an older code are not taken for results of this one."""
    laboratory, *library = SOURCES
    files = [laboratory / name for name in MAKING_PATHS]
    files += [file for folder in library for file in sorted(folder.glob("*.py"))]
    return _digest(b"".join(file.read_bytes() for file in files))


def _simulate(regime: Regime, seeds: Sequence[int], settings: TrainSettings) -> dict[str, Any]:
    """Lists of [W, A, S]."""
    worlds = [make_world(regime.settings, seed) for seed in seeds]
    arms = [build_arms(world, regime.arms, seed) for world, seed in zip(worlds, seeds, strict=True)]
    evaluations = [evaluate(policies, worlds) for _, policies in train(worlds, arms, settings, seed=seeds[0])]
    return {
        name: np.stack([getattr(e, name).numpy() for e in evaluations], -1).astype(float).round(6).tolist()
        for name in ("kl", *START)
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(content))
    unfinished.replace(path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]
