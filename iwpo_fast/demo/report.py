"""What each method changed, task by task: held-out accuracy, margins, and gold reward of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.evaluation.preference import mean_with_interval, preference_accuracy, stratified_mean, wins
from iwpo_fast.files import written_aside

WHAT = {
    "weights": "importance weights alone",
    "labels": "posterior labels alone",
    "both": "weights and posterior labels",
    "sampled": "posterior labels, and preferred pairs among sampled completions",
}
ADDED = [("labels", "sampled")]
"""Methods of which the second adds to the first."""
COLUMNS = [
    *("task", "method", "pairs", "labels right", "accuracy", "95 %", "margin"),
    *("before", "after", "best", "change", "95 %", "win rate", "95 %"),
]
ON_A_TERMINAL = (1, 4, 7, 8, 10, 11, 12)
"""Method, accuracy, gold reward before and after, its change with an interval, win rate."""

Measurement = dict[str, Any]
"""One held-out prompt after one method of alignment.

`task` and `method`; `gold_gap`, gold reward of the chosen minus that of the rejected completion, negative where the
label errs; `margin` of the pair, in units of the implicit reward; `before` and `after`, gold rewards of a sample of the
warm-up and of the aligned model; `best`, that of the best completion."""


def table(results: Sequence[Measurement]) -> list[list[str]]:
    """Header and one row per task and method, then one per method over all tasks, as text cells."""
    names, ways = _distinct(results, "task"), _distinct(results, "method")
    groups = {(name, way): _of(results, task=name, method=way) for name in names for way in ways}
    rows = [_row(*key, group, mean_with_interval(_change(group))) for key, group in groups.items()]
    for way in ways:
        change = stratified_mean([_change(groups[name, way]) for name in names])
        rows.append(_row("all", way, [one for name in names for one in groups[name, way]], change))
    return [COLUMNS, *rows]


def totals(results: Sequence[Measurement]) -> list[list[str]]:
    """The rows over all tasks under the header, of the columns that fit on a terminal."""
    header, *rows = table(results)
    return [[row[column] for column in ON_A_TERMINAL] for row in [header, *rows] if row is header or row[0] == "all"]


def comparisons(results: Sequence[Measurement]) -> list[str]:
    """What each method did beside the first one on the same prompts, and the last beside the one that it adds to."""
    first, *others = _distinct(results, "method")
    pairs = [(first, other) for other in others]
    return [_comparison(results, *pair) for pair in [*pairs, *ADDED] if set(pair) <= {first, *others}]


def _comparison(results: Sequence[Measurement], first: str, other: str) -> str:
    gains = [
        _values(_of(results, task=name, method=other), "after")
        - _values(_of(results, task=name, method=first), "after")
        for name in _distinct(results, "task")
    ]
    subject, prompts = f"{WHAT.get(other, other)}, beside {WHAT.get(first, first)}", sum(map(len, gains))
    if not any(map(np.any, gains)):
        return f"{subject}: nothing at all, every sample has the same gold reward."
    mean, low, high = stratified_mean(gains)
    verdict = "better" if low > 0 else "worse" if high < 0 else f"nothing that {prompts:,} prompts can show"
    return f"{subject}: {verdict}, gold reward {mean:+.2f} (95 % interval {low:+.2f} to {high:+.2f})."


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Plain-text table, the first column flush left and the numbers flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *right]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    header, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([header, "|---|---" + "|---:" * (len(rows[0]) - 2) + "|", *body])


def write_report(
    path: Path, results: Sequence[Measurement], *, examples: Sequence[dict[str, Any]], places: dict[str, Path]
) -> None:
    """Write the table, some samples and the paths of everything as Markdown.

    Args:
        examples: prompts with their completions, as `samples.jsonl` holds them.
        places: what was written, and where.
    """
    blocks = [
        "# The demo: a tiny model before and after preference optimisation, by DPO and by the parts of IWPO",
        markdown(table(results)),
        "\n".join(f"- {sentence}" for sentence in comparisons(results)),
        LEGEND + SHORT_LEGEND,
        "## Samples",
        "\n".join(_sample(example, ["before", *_distinct(results, "method")]) for example in examples),
        "## Files",
        "\n".join(f"- {what}: `{place}`" for what, place in places.items()),
    ]
    with written_aside(path) as aside:
        aside.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


LEGEND = (
    "Labels right: held-out pairs whose noisy label agrees with the gold reward. "
    "Best: mean gold reward of the best completion. "
)
SHORT_LEGEND = (
    "Accuracy: held-out pairs whose label the aligned model's implicit reward agrees with. "
    "Before, after: mean gold reward of one sampled completion per held-out prompt. "
    "Win rate: samples with a higher gold reward than the warm-up model's on the same prompt, ties half."
)
"""Of the columns that a terminal shows."""


def _sample(example: dict[str, Any], models: Sequence[str]) -> str:
    lines = [f"- `{example['prompt']}`", *(f"  - {model}: `{example[model].strip()}`" for model in models)]
    return "\n".join(lines)


def _row(task: str, method: str, results: Sequence[Measurement], change: tuple[float, float, float]) -> list[str]:
    n = len(results)
    margin, before, after, best = (_values(results, name) for name in ("margin", "before", "after", "best"))
    accuracy, low, high = preference_accuracy(float(wins(margin).sum()), n)
    win, win_low, win_high = preference_accuracy(float(wins(after - before).sum()), n)
    mean, least, most = change
    return [
        task,
        method,
        str(n),
        f"{wins(_values(results, 'gold_gap')).mean():.3f}",
        f"{accuracy:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{margin.mean():+.3f}",
        f"{before.mean():.2f}",
        f"{after.mean():.2f}",
        f"{best.mean():.2f}",
        f"{mean:+.2f}",
        f"{least:+.2f} to {most:+.2f}",
        f"{win:.3f}",
        f"{win_low:.3f} to {win_high:.3f}",
    ]


def _distinct(results: Sequence[Measurement], name: str) -> list[str]:
    return list(dict.fromkeys(result[name] for result in results))


def _of(results: Sequence[Measurement], *, task: str, method: str) -> list[Measurement]:
    return [result for result in results if result["task"] == task and result["method"] == method]


def _values(results: Sequence[Measurement], name: str) -> np.ndarray:
    return np.array([result[name] for result in results])


def _change(results: Sequence[Measurement]) -> np.ndarray:
    return _values(results, "after") - _values(results, "before")
