"""What is kept of a run: estimates with intervals, and the gold reward of every world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

from lab.exact.arms import ARMS
from lab.exact.compare import (
    Interval,
    Outcomes,
    mean_interval,
    mean_of_changes,
    relative_change,
)
from lab.exact.evaluate import BUDGETS
from lab.exact.regimes import Regime

MAIN_BUDGET = 1.0  # nats; what DPO itself reaches at beta = 0.3 is about that
Found = Sequence[tuple[Regime, Outcomes]]


def as_json(main: Found, bias: Found, environment: dict[str, Any], worlds: int, seconds: float) -> dict[str, Any]:
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
        "arms": {name: _arm(outcomes, name) for name in outcomes.arms},
    }


def _arm(outcomes: Outcomes, name: str) -> dict[str, Any]:
    """Changes of gold are of DPO's own gain, in per cent; changes of the win rate in points."""
    at = {}
    for budget in BUDGETS:
        gold, base = outcomes.at(budget, "gold", name), outcomes.at(budget, "gold", "dpo")
        scaled, scaled_base = (outcomes.at(budget, "scaled_gold", arm) for arm in (name, "dpo"))
        wins = outcomes.at(budget, "win_rate", name) - outcomes.at(budget, "win_rate", "dpo")
        at[str(budget)] = {
            "kl": round(float(outcomes.at(budget, "kl", name).mean()), 4),
            "gold": as_numbers(mean_interval(gold)),
            "gold_change": as_numbers(relative_change(gold, base)),
            "scaled_gold_change": as_numbers(relative_change(scaled, scaled_base)),
            "win_rate": round(float(outcomes.at(budget, "win_rate", name).mean()), 4),
            "win_rate_change": as_numbers(mean_interval(100 * wins)),
        }
    trained = {m: round(float(outcomes.as_trained(m, name).mean()), 4) for m in ("kl", "gold", "win_rate")}
    per_world = outcomes.at(MAIN_BUDGET, "gold", name).round(4).tolist()
    return {"at_kl": at, "as_trained": trained, "gold_by_world": per_world}


def _over_regimes(main: Found) -> dict[str, Any]:
    """Mean change over the regimes that have the arm, and its worst and best regime."""
    rows = {}
    for name in ARMS:
        having = [(regime, outcomes) for regime, outcomes in main if name in outcomes.arms]
        if name == "dpo" or not having:
            continue
        both = [(o.at(MAIN_BUDGET, "gold", name), o.at(MAIN_BUDGET, "gold", "dpo")) for _, o in having]
        changes = [relative_change(*pair) for pair in both]
        by_mean = sorted(zip(changes, having, strict=True), key=lambda found: found[0].mean)
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
