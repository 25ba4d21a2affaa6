"""The result as Markdown."""

from __future__ import annotations

from typing import Any

from lab.exact.candidates import CATALOGUE
from lab.exact.report import PURE_FORM
from lab.experiment import as_table, bold

HEADER = ("arm", "seeds", "gain, DPO = 100", "95 %", "gain", "win rate", "change, points", "95 %", "inside")


def markdown(result: dict[str, Any]) -> str:
    """One table for all budgets of KL and one for each, with what was compared above them."""
    settings = result["settings"]
    parts = [
        f"{settings['pairs']:,} pairs, {settings['noise']:.0%} of the labels flipped; {result['parameters']:,} "
        "parameters; KL and gold reward from "
        f"{settings['test_prompts'] * settings['samples']:,} samples of held-out prompts at each scale of a trained "
        "policy's log-ratio to the reference.",
        "Gain: gold reward over the supervised policy's, in standard deviations within a task. Paired by seed, with "
        "Student's 95 % intervals. Bold: zero outside the interval. Inside: share of seeds and budgets that lie "
        "between KLs at which the arm was evaluated; elsewhere it is understated.",
        PURE_FORM,
    ]
    for budgets in (result["budgets"], *([budget] for budget in result["budgets"])):
        rows = [row for row in result["comparisons"] if list(row["budgets"]) == list(budgets)]
        what = ("Mean over KL of " if len(budgets) > 1 else "KL of ") + ", ".join(f"{budget:g}" for budget in budgets)
        parts += [f"### {what} nats", as_table([HEADER, *map(_cells, rows)])]
    return "\n\n".join(parts)


def _cells(row: dict[str, Any]) -> list[str]:
    gain, gain_interval = _estimate(row["change"], 100, 1)
    win, win_interval = _estimate(row["win_change"], 0, 2)
    seeds, inside = str(len(row["seeds"])), f"{row['inside']:.0%}"
    shares = (f"{row['gain']:.3f}", f"{100 * row['win']:.1f} %")
    return [CATALOGUE[row["arm"]].label, seeds, gain or "100.0", gain_interval, *shares, win, win_interval, inside]


def _estimate(change: dict[str, float] | None, base: float, digits: int) -> tuple[str, str]:
    """Mean and interval of base plus change, both empty where nothing is compared."""
    if change is None:
        return "", ""
    mean, low, high = (f"{base + change[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return bold(mean, change), f"{low} to {high}"
