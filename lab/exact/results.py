"""What is kept of a run: estimates with intervals, and the gold reward of every world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

from lab.exact.arms import ARMS
from lab.exact.compare import (
    Floats,
    Interval,
    Outcomes,
    at,
    mean_interval,
    mean_of_changes,
    relative_change,
)
from lab.exact.evaluate import BUDGETS
from lab.exact.regimes import Regime

MAIN_BUDGET = 1.0  # nats; what DPO itself reaches at beta = 0.3 is about that
Measured = Sequence[tuple[Regime, Outcomes]]


def as_json(main: Measured, bias: Measured, environment: dict[str, Any], worlds: int, seconds: float) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "schema": 1,
        "date": date.today().isoformat(),
        "seconds": round(seconds, 1),
        "environment": environment,
        "worlds": worlds,
        "main_budget": MAIN_BUDGET,
        "arms": {name: {"label": arm.label, "group": arm.group} for name, arm in ARMS.items()},
        "over_regimes": _over_regimes(main) if main else {},
        "regimes": [_regime(regime, outcomes) for regime, outcomes in main],
        "bias": [_regime(regime, outcomes) for regime, outcomes in bias],
    }


def _regime(regime: Regime, outcomes: Outcomes) -> dict[str, Any]:
    return {
        "name": regime.name,
        "settings": asdict(regime.settings),
        "training": asdict(regime.training),
        "arms": {name: _arm(arm, outcomes["dpo"]) for name, arm in outcomes.items()},
    }


def _arm(arm: Mapping[str, Floats], dpo: Mapping[str, Floats]) -> dict[str, Any]:
    """Changes of gold are of DPO's own gain, in per cent; changes of the win rate in points."""
    at_kl = {}
    for budget in BUDGETS:
        gold, scaled, wins = (at(budget, measure, arm) for measure in ("gold", "scaled_gold", "win_rate"))
        dpo_gold, dpo_scaled, dpo_wins = (at(budget, measure, dpo) for measure in ("gold", "scaled_gold", "win_rate"))
        at_kl[str(budget)] = {
            "kl": round(float(at(budget, "kl", arm).mean()), 4),
            "gold": as_numbers(mean_interval(gold)),
            "gold_change": as_numbers(relative_change(gold, dpo_gold)),
            "scaled_gold_change": as_numbers(relative_change(scaled, dpo_scaled)),
            "win_rate": round(float(wins.mean()), 4),
            "win_rate_change": as_numbers(mean_interval(100 * (wins - dpo_wins))),
        }
    trained = {m: round(float(arm[m][:, 0].mean()), 4) for m in ("kl", "gold", "win_rate")}
    per_world = at(MAIN_BUDGET, "gold", arm).round(4).tolist()
    return {"at_kl": at_kl, "as_trained": trained, "gold_by_world": per_world}


def _over_regimes(main: Measured) -> dict[str, Any]:
    """Mean change over the regimes that have the arm, and its worst and best regime."""
    rows = {}
    for name in ARMS:
        having = [(regime, outcomes) for regime, outcomes in main if name in outcomes]
        if name == "dpo" or not having:
            continue
        both = [(at(MAIN_BUDGET, "gold", o[name]), at(MAIN_BUDGET, "gold", o["dpo"])) for _, o in having]
        changes = [relative_change(*pair) for pair in both]
        by_mean = sorted(zip(changes, having, strict=True), key=lambda row: row[0].mean)
        rows[name] = {
            "regimes": len(having),
            "gold_change": as_numbers(mean_of_changes(both)),
            "worst": {"regime": by_mean[0][1][0].name, **as_numbers(by_mean[0][0])},
            "best": {"regime": by_mean[-1][1][0].name, **as_numbers(by_mean[-1][0])},
            "better": sum(change.sign > 0 for change in changes),
            "worse": sum(change.sign < 0 for change in changes),
        }
    return rows


def as_numbers(interval: Interval) -> dict[str, float]:
    """JSON-ready."""
    return {name: round(value, 4) for name, value in asdict(interval).items()}
