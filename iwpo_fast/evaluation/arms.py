"""Parts of the method beside plain DPO, on the same held-out pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iwpo_fast.evaluation.preference import accuracy_of_prompts, paired_difference, parts_by, wins
from iwpo_fast.words import several

FIRST = "dpo"
"""The arm that the others are compared with."""
OWN = "run"
"""The run itself, beside its arms."""
NOTE = (
    "Accuracy: held-out pairs whose label, which may be wrong itself, the implicit reward agrees with. All arms have "
    "the same rewards. Intervals are of one training each, and pairs of one prompt count as one."
)

WHAT = {
    "dpo": "the pairs as they are",
    "weights": "weights between pairs alone",
    "labels": "posterior labels alone",
    "both": "weights and posterior labels",
    "run": "all that the run asks for",
}

WEIGHED = "DPO with the weights of your data"
"""What the first arm is where these are unequal."""

Row = dict[str, Any]
"""`pairs`, `accuracy` with its interval `low` and `high`, `margin`; except of the first arm `difference`, mean and
interval of its accuracy minus the first one's; `effects`, of weights and labels; `same_as`, the arm that was trained in
its place."""


def compared(margins: Mapping[str, np.ndarray], prompt: np.ndarray | None = None) -> dict[str, Row]:
    """A row for each arm.

    Args:
        margins: float64 [P] of each arm, on the same held-out pairs; `dpo` is among them.
        prompt: int64 [P], which prompt each pair is of; None takes pairs for independent.
    """
    right = {name: wins(margin) for name, margin in margins.items()}
    prompt = np.arange(len(margins[FIRST])) if prompt is None else prompt
    rows = {}
    for name, margin in margins.items():
        accuracy, low, high = accuracy_of_prompts(right[name], prompt)
        row: Row = {
            "pairs": len(margin),
            "accuracy": accuracy,
            "low": 0.0 if math.isnan(low) else low,
            "high": 1.0 if math.isnan(high) else high,
            "margin": float(margin.mean()),
        }
        if name != FIRST:
            row["difference"] = list(paired_difference(*(parts_by(prompt, right[arm]) for arm in (name, FIRST))))
        rows[name] = row
    return rows


def first_words(rows: Mapping[str, Row]) -> str:
    """What the first arm is: it has no weights of the method, so that unequal ones are those of the data."""
    return WEIGHED if rows[FIRST].get("effects", {}).get("ess", 1.0) < 1 - 1e-9 else "plain DPO"


def what_of(name: str, rows: Mapping[str, Row]) -> str:
    """What an arm is, in words; empty for one that this version does not know."""
    first = first_words(rows)
    return first if name == FIRST and first == WEIGHED else WHAT.get(name, "")


def verdict(name: str, row: Row, same: bool) -> str:
    """What a part did, in plain words.

    Args:
        same: its pairs, weights and labels are those of the first arm.
    """
    if same:
        return f"{WHAT[name]}: nothing, because weights and labels are those of {FIRST}"
    mean, low, high = (100 * value for value in row["difference"])
    numbers = f"{mean:+z.1f} points of accuracy beside {FIRST} (95 % interval {low:+.1f} to {high:+.1f})"
    if low > 0 or high < 0:
        return f"{WHAT[name]}: {'better' if low > 0 else 'worse'}, {numbers}"
    return f"{WHAT[name]}: nothing that {several(row['pairs'], 'held-out pair')} can show, {numbers}"


def markdown(rows: Mapping[str, Row], verdicts: Sequence[str]) -> str:
    """The page on them, with the `effects` of each row."""
    header = ["arm", "", "ESS", "labels turned", "drawn pairs", "accuracy", "95 %", "margin", f"beside {FIRST}", "95 %"]
    cells = [
        header,
        ["---"] * 2 + ["---:"] * 8,
        *(_cells(name, what_of(name, rows), row) for name, row in rows.items()),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in cells)
    said = "\n".join(f"- {line}" for line in verdicts)
    return "\n\n".join(["# Parts of the method on held-out pairs", table, said, NOTE]) + "\n"


def _cells(name: str, what: str, row: Row) -> list[str]:
    effects = row["effects"]
    mean, low, high = (100 * value for value in row.get("difference", (0, 0, 0)))
    beside = [f"{mean:+z.1f} points", f"{low:+.1f} to {high:+.1f}"] if "difference" in row else ["", ""]
    return [
        *(name, what, f"{effects['ess']:.1%}", f"{effects['turned']:,}", f"{effects['drawn']:,}"),
        *(f"{row['accuracy']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}", f"{row['margin']:+.3f}", *beside),
    ]
