"""What the alignment changed, task by task: held-out accuracy, margins, and gold reward of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iwpo_fast.evaluation.preference import mean_with_interval, preference_accuracy, stratified_mean
from iwpo_fast.files import written_aside

COLUMNS = [
    *("task", "pairs", "labels right", "accuracy", "95 %", "margin"),
    *("before", "after", "best", "change", "95 %", "win rate", "95 %"),
]


@dataclass(frozen=True)
class TaskResult:
    """Measurements of one task on n held-out prompts.

    Attributes:
        name: name of the task.
        gold_gaps: [n], gold reward of the chosen minus that of the rejected completion; negative where the label errs.
        margins: [n], margins of the held-out pairs, in units of the implicit reward.
        before, after: [n], gold rewards of one sample for each prompt, from the warm-up and from the aligned model.
        best: [n], gold reward of the best completion of each prompt.
    """

    name: str
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
    """Header and one row per task, then one over all tasks, as text cells."""
    rows = [_row(result, mean_with_interval(result.change)) for result in results]
    names = ("gold_gaps", "margins", "before", "after", "best")
    pooled = TaskResult("all", *(np.concatenate([getattr(r, name) for r in results]) for name in names))
    rows.append(_row(pooled, stratified_mean([result.change for result in results])))
    return [COLUMNS, *rows]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Plain-text table, the first column flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *right]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:-1], "-" * len(lines[0]), lines[-1]])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    header, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([header, "|---" + "|---:" * (len(rows[0]) - 1) + "|", *body])


def write_report(
    path: Path, results: Sequence[TaskResult], *, examples: Sequence[tuple[str, str, str]], places: dict[str, Path]
) -> None:
    """Write the table, some samples and the paths of everything as Markdown.

    Args:
        examples: (prompt, completion before, completion after).
        places: what was written, and where.
    """
    blocks = [
        "# The demo: a tiny model before and after preference optimisation",
        markdown(table(results)),
        LEGEND,
        "## Samples",
        "\n".join(
            f"- `{prompt}`\n  - before: `{before.strip()}`\n  - after: `{after.strip()}`"
            for prompt, before, after in examples
        ),
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


def _row(result: TaskResult, change: tuple[float, float, float]) -> list[str]:
    n = len(result.margins)
    accuracy, low, high = preference_accuracy(result.correct, n)
    win, win_low, win_high = preference_accuracy(_wins(result.change), n)
    mean, least, most = change
    return [
        result.name,
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
