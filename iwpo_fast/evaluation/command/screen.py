"""A report as lines of at most 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from iwpo_fast.evaluation.bootstrap import Estimate
from iwpo_fast.terminal import escaped

LABEL = 46
WIDTH = 80
PERCENT = "percent"

Report = dict[str, Any]

HELD_OUT = {
    "accuracy": "accuracy",
    "margin": "margin",
    "calibration_error": "calibration error",
    "by_chance": "the same by chance",
}
PROBES = {
    "tokens": "tokens",
    "ended": "ended by themselves",
    "empty": "empty",
    "repetition": "repeated 4-grams",
    "loops": "loops (more than half of them)",
}
WINS = {
    "win_rate": "win rate",
    "length_controlled_win_rate": "win rate at equal lengths",
    "score_difference": "score, minus that of the others",
    "characters": "characters",
    "characters_of_others": "characters of the others",
}


def screen(report: Report) -> list[str]:
    """The lines of a whole report."""
    lines = [_cut(f"model    {report['model']}")]
    if report.get("against"):
        lines.append(_cut(f"against  {report['against']}"))
    parts = (_held_out(report), _answers(report), _wins(report), _reward_bench(report))
    for part in parts:
        if found := list(part):
            lines += ["", *found]
    return [*lines, "", "in brackets: 95 % intervals, by a bootstrap over prompts"]


def _held_out(report: Report) -> Iterator[str]:
    if (of := report.get("held_out")) is None:
        return
    left_out = f", {of['left_out']:,} too long" if of["left_out"] else ""
    yield f"held-out pairs: {of['pairs']:,} of {of['prompts']:,} prompts{left_out}"
    if "log_ratio" in of:
        yield from _rows(of["log_ratio"], HELD_OUT, ", log-ratio")
    for who, estimates in of["mean_log_prob"].items():
        if who == "difference":
            yield _row("accuracy, mean log-prob, difference", estimates, sign="+")
        else:
            yield _row(f"accuracy, mean log-prob, {who}", estimates["accuracy"])
    for title, name in (("cluster", "by_cluster"), ("score gap", "by_score")):
        for label, group in of[name].items():
            place = f"{title} {label}, {group['pairs']:,} pairs"
            yield _row(f"accuracy, {place}", group["accuracy"])
            yield _row("  margin", group["margin"], sign="+")


def _answers(report: Report) -> Iterator[str]:
    for who, of in report.get("answers", {}).items():
        yield f"answers of {who}: {of['answers']:,}"
        yield from _rows(of, PROBES)


def _wins(report: Report) -> Iterator[str]:
    if (of := report.get("wins")) is None:
        return
    left_out = f", {of['left_out']:,} too long to score" if of["left_out"] else ""
    yield _cut(f"answers beside {of['beside']}: {of['comparisons']:,} comparisons{left_out}")
    yield from _rows(of, WINS)


def _reward_bench(report: Report) -> Iterator[str]:
    for who, of in report.get("rewardbench", {}).items():
        yield f"RewardBench {of['version']}, by {who.replace('_', ' ')}"
        for name, subset in of["subsets"].items():
            left_out = f", {subset['left_out']:,} too long" if subset["left_out"] else ""
            label = f"{name}, {subset['prompts']:,} prompts{left_out}"
            yield _row(label, subset.get("accuracy", subset.get("score")))
        for name, value in of.get("sections", {}).items():
            yield _row(f"section {name}", value)
        if "mean" in of:
            yield _row("mean of the subsets", of["mean"])


def _rows(of: Report, names: dict[str, str], suffix: str = "") -> Iterator[str]:
    for name, label in names.items():
        if name in of:
            yield _row(label + suffix, of[name], sign="+" if name in ("margin", "score_difference") else "")


def _row(label: str, estimate: Estimate | float, sign: str = "") -> str:
    label = f"  {escaped(label)}"
    label = label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"
    if not isinstance(estimate, Estimate):
        return f"{label:{LABEL}}{_number(estimate, sign):>9}"
    low, high = (_number(end, sign) for end in estimate[1:])
    return f"{label:{LABEL}}{_number(estimate.value, sign):>9}  ({low} to {high})"


def _number(value: float, sign: str) -> str:
    """Three digits behind the point for shares, fewer for large numbers."""
    if value != value:
        return "–"
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:{sign},.{digits}f}"


def _cut(line: str) -> str:
    line = escaped(line)
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
