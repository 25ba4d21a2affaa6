"""Arms against DPO at equal KL, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.exact.compare import Interval, mean_interval, relative_change

Floats = NDArray[np.float64]
Path = Mapping[str, Sequence[float]]
BASELINE = "dpo"
START = {"gold": 0.0, "scaled_gold": 0.0, "win_rate": 0.5, "words": np.nan}
FEWEST_SEEDS = 2  # for an interval


@dataclass(frozen=True)
class Comparison:
    """An arm at one budget of KL, in the S seeds that have both the arm and DPO.

    Attributes:
        seeds: which.
        reached: share of them in which the arm reached the budget; the others enter with the end of their path.
        change: of the scaled gold reward's gain, in per cent of DPO's.
        gain, dpo_gain: mean gain of the scaled gold reward of the arm and of DPO.
        win_change: of the win rate, in points of per cent.
        win: mean win rate.
    """

    arm: str
    budget: float
    seeds: tuple[int, ...]
    reached: float
    change: Interval | None
    gain: float
    dpo_gain: float
    win_change: Interval | None
    win: float

    def as_json(self) -> dict[str, Any]:
        return {name: vars(value) if isinstance(value, Interval) else value for name, value in vars(self).items()}


def at_budget(path: Path, measure: str, budget: float) -> tuple[float, bool]:
    """A measure where the path's KL first reaches the budget, between checkpoints by a straight line.

    A path that stays below gives its value at its largest KL, and False.
    """
    kl, values = [0.0, *path["kl"]], [START[measure], *path[measure]]
    for before in range(len(kl) - 1):
        if kl[before + 1] >= budget:
            part = (budget - kl[before]) / (kl[before + 1] - kl[before])
            return values[before] + part * (values[before + 1] - values[before]), True
    return values[int(np.argmax(kl))], False


def compare(paths: Mapping[str, Mapping[int, Path]], arm: str, budget: float) -> Comparison:
    """Compare an arm with DPO; `paths` are by arm and seed."""
    seeds = tuple(sorted(paths[arm].keys() & paths[BASELINE].keys()))

    def values(name: str, measure: str) -> Floats:
        return np.array([at_budget(paths[name][seed], measure, budget)[0] for seed in seeds])

    gain, dpo_gain = values(arm, "scaled_gold"), values(BASELINE, "scaled_gold")
    win, dpo_win = values(arm, "win_rate"), values(BASELINE, "win_rate")
    enough = len(seeds) >= FEWEST_SEEDS and arm != BASELINE
    return Comparison(
        arm=arm,
        budget=budget,
        seeds=seeds,
        reached=float(np.mean([at_budget(paths[arm][seed], "gold", budget)[1] for seed in seeds])),
        change=relative_change(gain, dpo_gain) if enough else None,
        gain=float(gain.mean()),
        dpo_gain=float(dpo_gain.mean()),
        win_change=mean_interval(100 * (win - dpo_win)) if enough else None,
        win=float(win.mean()),
    )
