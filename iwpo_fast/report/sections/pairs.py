"""The pairs that count most and least, and those where rewards contradict the label most, with their texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from iwpo_fast.report.html import Html, folded, joined, note, paragraph, tag, terms
from iwpo_fast.report.numbers import decimal, percent, signed
from iwpo_fast.report.passages import passage
from iwpo_fast.report.run_files import RunFiles, Weighted, text_of

TITLE = "Pairs to look at"
NEEDS = "weigh"
SHOWN = 5

TERMS = {
    "reward gap": "Reward of the chosen minus that of the rejected answer, in log-odds. Below 0 the rewards say that "
    "the label is the wrong way round.",
}
EVEN = "All labelled pairs have the same weight, so none is the heaviest or the lightest."


def body(run: RunFiles) -> Html:
    pairs = run.weighted
    groups = dict(_groups(pairs))
    rows = run.weighted_rows([number for numbers in groups.values() for number in numbers])
    even = [] if "heaviest" in groups else [note(EVEN)]
    parts = (part for name, numbers in groups.items() for part in _group(name, numbers, pairs, rows))
    column = run.weight_column
    times = [] if column is None else [note(f"Weights here are those of the method times your column {column}.")]
    return joined([*even, *times, terms(TERMS), *parts, *_beaten(run)])


def _groups(pairs: Weighted) -> Iterator[tuple[str, list[int]]]:
    """Numbers of rows, by what is said of them; ties go to the earlier row."""
    weight, gap = pairs.weight[pairs.labelled], pairs.gap[pairs.labelled]
    if np.ptp(weight) > 0:
        yield "heaviest", pairs.labelled[np.argsort(-weight, kind="stable")[:SHOWN]].tolist()
        yield "lightest", pairs.labelled[np.argsort(weight, kind="stable")[:SHOWN]].tolist()
    against = np.argsort(gap, kind="stable")[:SHOWN]
    yield "most surprising", pairs.labelled[against[gap[against] < 0]].tolist()


def _group(name: str, numbers: list[int], pairs: Weighted, rows: dict[int, dict[str, Any]]) -> Iterator[Html]:
    yield tag("h3", f"The {name}")
    if name == "most surprising":
        yield paragraph("Labels that the rewards contradict most: either the label is wrong or the rewards are.")
    if not numbers:
        yield note("None: the rewards contradict no label.")
    for place, number in enumerate(numbers):
        texts = (passage(part, text_of(rows[number][part])) for part in ("prompt", "chosen", "rejected"))
        yield folded(_numbers(number, pairs), *texts, unfolded=place == 0)


def _numbers(number: int, pairs: Weighted) -> str:
    return (
        f"weight {decimal(pairs.weight[number], 2)} · reward gap {signed(pairs.gap[number], 2)} · label wrong with "
        f"{percent(pairs.label_smoothing[number], 0)} · cluster {int(pairs.cluster[number])}"
    )


def _beaten(run: RunFiles) -> Iterator[Html]:
    """Drawn pairs in which a candidate beats the chosen answer, where pairs were drawn."""
    rows = run.weights().get("preferred", {}).get("beaten", [])
    if not rows:
        return
    yield tag("h3", "Drawn against a chosen answer")
    yield paragraph("Pairs that nobody labelled, in which a candidate is preferred to the answer that people chose.")
    for row in rows[:SHOWN]:
        gap = row["chosen_reward"] - row["rejected_reward"]
        texts = (passage(name, text_of(text)) for name, text in row["text"].items())
        yield folded(f"reward gap {signed(gap, 2)}", *texts)
