"""What each method changed, task by task: held-out accuracy, margins, and gold reward of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.evaluation.preference import mean_with_interval, preference_accuracy, stratified_mean
from iwpo_fast.files import written_aside

COLUMNS = [
    *("task", "method", "pairs", "labels right", "accuracy", "95 %", "margin"),
    *("before", "after", "best", "change", "95 %", "win rate", "95 %"),
]


@dataclass(frozen=True)
class TaskResult:
    """Measurements of one task on n held-out prompts, after one method of alignment.

    Attributes:
        name: name of the task.
        method: name of the method.
        gold_gaps: [n], gold reward of the chosen minus that of the rejected completion; negative where the label errs.
        margins: [n], margins of the held-out pairs, in units of the implicit reward.
        before, after: [n], gold rewards of one sample for each prompt, from the warm-up and from the aligned model.
        best: [n], gold reward of the best completion of each prompt.
    """

    name: str
    method: str
    gold_gaps: np.ndarray
    margins: np.ndarray
    before: np.ndarray
    after: np.ndarray
    best: np.ndarray

    @property
    def correct(self) -> float:
        """Pairs with a positive margin; a zero counts half."""
        return _wins(self.margins)

    @property
    def change(self) -> np.ndarray:
        return self.after - self.before


def table(results: Sequence[TaskResult]) -> list[list[str]]:
    """Header and one row per task and method, then one per method over all tasks, as text cells."""
    rows = [_row(result, mean_with_interval(result.change)) for result in results]
    names = ("gold_gaps", "margins", "before", "after", "best")
    for method in methods(results):
        tasks = [result for result in results if result.method == method]
        pooled = TaskResult("all", method, *(np.concatenate([getattr(task, name) for task in tasks]) for name in names))
        rows.append(_row(pooled, stratified_mean([task.change for task in tasks])))
    return [COLUMNS, *rows]


def methods(results: Sequence[TaskResult]) -> list[str]:
    """The methods, in their order."""
    return list(dict.fromkeys(result.method for result in results))


def comparison(results: Sequence[TaskResult]) -> str:
    """The last method's gold reward against the first one's on the same prompts, in a sentence."""
    first, *_, last = methods(results)
    after = {(result.name, result.method): result.after for result in results}
    gains = [after[name, last] - after[name, first] for name in dict.fromkeys(result.name for result in results)]
    mean, low, high = stratified_mean(gains)
    return (
        f"{last} minus {first}: gold reward {mean:+.2f} (95 % interval {low:+.2f} to {high:+.2f}) on the same prompts, "
        "after equally many steps from the same model on the same pairs."
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Plain-text table, task and method flush left and the numbers flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for task, method, *others in rows:
        right = [cell.rjust(width) for cell, width in zip(others, widths[2:], strict=True)]
        lines.append("  ".join([task.ljust(widths[0]), method.ljust(widths[1]), *right]))
    totals = sum(row[0] == "all" for row in rows)
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-totals], rule, *lines[-totals:]])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    header, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([header, "|---|---" + "|---:" * (len(rows[0]) - 2) + "|", *body])


def write_report(
    path: Path, results: Sequence[TaskResult], *, examples: Sequence[dict[str, Any]], places: dict[str, Path]
) -> None:
    """Write the table, some samples and the paths of everything as Markdown.

    Args:
        examples: prompts with their completions, as `samples.jsonl` holds them.
        places: what was written, and where.
    """
    blocks = [
        "# The demo: a tiny model before and after preference optimisation, DPO and IWPO",
        markdown(table(results)),
        comparison(results),
        LEGEND,
        "## Samples",
        "\n".join(_sample(example, ["before", *methods(results)]) for example in examples),
        "## Files",
        "\n".join(f"- {what}: `{place}`" for what, place in places.items()),
    ]
    with written_aside(path) as aside:
        aside.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


LEGEND = (
    "Labels right: held-out pairs whose noisy label agrees with the gold reward. "
    "Accuracy: held-out pairs whose label the aligned model's implicit reward agrees with. "
    "Before, after: mean gold reward of one sampled completion per held-out prompt. Best: of the best completion. "
    "Win rate: samples with a higher gold reward than the warm-up model's on the same prompt, ties half."
)


def _sample(example: dict[str, Any], models: Sequence[str]) -> str:
    lines = [f"- `{example['prompt']}`", *(f"  - {model}: `{example[model].strip()}`" for model in models)]
    return "\n".join(lines)


def _row(result: TaskResult, change: tuple[float, float, float]) -> list[str]:
    n = len(result.margins)
    accuracy, low, high = preference_accuracy(result.correct, n)
    win, win_low, win_high = preference_accuracy(_wins(result.change), n)
    mean, least, most = change
    return [
        result.name,
        result.method,
        str(n),
        f"{_wins(result.gold_gaps) / n:.3f}",
        f"{accuracy:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{result.margins.mean():+.3f}",
        f"{result.before.mean():.2f}",
        f"{result.after.mean():.2f}",
        f"{result.best.mean():.2f}",
        f"{mean:+.2f}",
        f"{least:+.2f} to {most:+.2f}",
        f"{win:.3f}",
        f"{win_low:.3f} to {win_high:.3f}",
    ]


def _wins(differences: np.ndarray) -> float:
    return float((differences > 0).sum() + 0.5 * (differences == 0).sum())
