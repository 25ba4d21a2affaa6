"""Arms against DPO at equal KL, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lab.exact.compare import Floats, mean_interval, relative_change

Path = Mapping[str, Sequence[float]]
BASELINE = "dpo"
START = {"gold": 0.0, "scaled_gold": 0.0, "win_rate": 0.5}
FEWEST_SEEDS = 2  # for an interval


def at_budget(path: Path, measure: str, budget: float) -> tuple[float, bool]:
    """A measure where the path's KL first reaches the budget, linear in the root of the KL between scales.

    A small step of the policy gains in proportion to the root. A path that stays below the budget gives its value at
    its largest KL. The second value says whether the budget lies between two evaluations.
    """
    distance, values = np.sqrt([0.0, *path["kl"]]), np.array([START[measure], *path[measure]])
    above = np.flatnonzero(distance >= np.sqrt(budget))
    if not len(above):
        return float(values[distance.argmax()]), False
    span = slice(int(above[0]) - 1, int(above[0]) + 1)
    return float(np.interp(np.sqrt(budget), distance[span], values[span])), span.start > 0


def compare(paths: Mapping[str, Mapping[int, Path]], arm: str, budgets: tuple[float, ...]) -> dict[str, Any]:
    """Compare an arm with DPO at some budgets of KL, in the seeds that have both; `paths` are by arm and seed.

    Returns:
        JSON-ready, with means over budgets and seeds

        inside: share of seeds and budgets between KLs at which the arm was evaluated; the others enter by a line from
            the supervised policy, or with the end of the path, and both understate the arm.
        change: of the scaled gold reward's gain, in per cent of DPO's.
        gain, dpo_gain: of the scaled gold reward of the arm and of DPO.
        win_change: of the win rate, in points of per cent.
        win: the win rate.
    """
    seeds = tuple(sorted(paths[arm].keys() & paths[BASELINE].keys()))

    def values(name: str, measure: str) -> Floats:
        return np.array([np.mean([at_budget(paths[name][seed], measure, b)[0] for b in budgets]) for seed in seeds])

    gain, dpo_gain = values(arm, "scaled_gold"), values(BASELINE, "scaled_gold")
    win, dpo_win = values(arm, "win_rate"), values(BASELINE, "win_rate")
    comparable = len(seeds) >= FEWEST_SEEDS and arm != BASELINE and dpo_gain.mean() != 0
    return {
        "arm": arm,
        "budgets": budgets,
        "seeds": seeds,
        "inside": float(np.mean([at_budget(paths[arm][seed], "gold", b)[1] for seed in seeds for b in budgets])),
        "change": vars(relative_change(gain, dpo_gain)) if comparable else None,
        "gain": float(gain.mean()),
        "dpo_gain": float(dpo_gain.mean()),
        "win_change": vars(mean_interval(100 * (win - dpo_win))) if comparable else None,
        "win": float(win.mean()),
    }
