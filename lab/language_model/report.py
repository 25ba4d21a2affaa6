"""The result as Markdown."""

from __future__ import annotations

from typing import Any

from lab.exact.arms import ARMS
from lab.exact.report import PURE_FORM

HEADER = ("arm", "seeds", "gain, DPO = 100", "95 %", "gain", "win rate", "change, points", "95 %", "inside")


def markdown(result: dict[str, Any]) -> str:
    """One table for all budgets of KL and one for each, with what was compared above them."""
    settings = result["settings"]
    lines = [
        f"{settings['pairs']:,} pairs, {settings['noise']:.0%} of the labels flipped, length bias "
        f"{settings['length_bias']:g}; {result['parameters']:,} parameters; KL and gold reward from "
        f"{settings['test_prompts'] * settings['samples']:,} samples of held-out prompts at each scale "
        "of a trained policy's log-ratio to the reference.",
        "",
        "Gain: gold reward over the supervised policy's, in standard deviations within a task. Paired by seed, with "
        "Student's 95 % intervals. Bold: zero outside the interval. Inside: share of seeds and budgets that lie "
        "between KLs at which the arm was evaluated; elsewhere it is understated.",
        "",
        PURE_FORM,
    ]
    for budgets in (result["budgets"], *([budget] for budget in result["budgets"])):
        rows = [row for row in result["comparisons"] if list(row["budgets"]) == list(budgets)]
        what = ("Mean over KL of " if len(budgets) > 1 else "KL of ") + ", ".join(f"{budget:g}" for budget in budgets)
        lines += ["", f"### {what} nats", "", _line(HEADER), _line(["---"] * len(HEADER))]
        lines += [_line(_cells(row)) for row in rows]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    change, win = row["change"], row["win_change"]
    return [
        ARMS[row["arm"]].label,
        str(len(row["seeds"])),
        _mean(change, 100, 1) if change else "100.0",
        _interval(change, 100, 1),
        f"{row['gain']:.3f}",
        f"{100 * row['win']:.1f} %",
        _mean(win, 0, 2) if win else "",
        _interval(win, 0, 2),
        f"{row['inside']:.0%}",
    ]


def _mean(interval: dict[str, float], base: float, digits: int) -> str:
    text = f"{base + interval['mean']:.{digits}f}"
    return f"**{text}**" if interval["low"] > 0 or interval["high"] < 0 else text


def _interval(interval: dict[str, float] | None, base: float, digits: int) -> str:
    return f"{base + interval['low']:.{digits}f} to {base + interval['high']:.{digits}f}" if interval else ""


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
