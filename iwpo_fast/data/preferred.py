"""Two answers and a column that says which is better, brought to `chosen` and `rejected`."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from iwpo_fast.data.columns import SCORES, SCORES_OF_SIDES

Meaning = Callable[[Any], str | None]
"""From a value of the column to `first`, `second` or `tie`; None where it means none of them."""

VERDICTS = ("first", "second", "tie")
SIGNS: dict[str, Callable[[float], bool]] = {"negative": lambda value: value < 0, "positive": lambda value: value > 0}
"""Words that stand for many numbers."""


def meaning_of(setting: Mapping[str, Any]) -> Meaning:
    """What `data.preferred` says, such as {first: model_a, second: model_b, tie: [tie, both bad]}.

    Numbers, truth values and text are compared as they are written: 0, 0.0 and "0" are one value. The words `negative`
    and `positive` stand for all such numbers.

    Raises:
        ValueError: a key is none of `first`, `second` and `tie`, one of the first two is missing, or a value means two.
    """
    if unknown := set(setting) - set(VERDICTS):
        raise ValueError(f"data.preferred has {min(unknown)}, which means nothing here: use {', '.join(VERDICTS)}.")
    if setting and not {"first", "second"} <= setting.keys():
        raise ValueError(
            "data.preferred needs both first and second: the values that mean the one answer or the other."
        )
    verdicts: dict[str, str] = {}
    for verdict, given in setting.items():
        for value in given if isinstance(given, list) else [given]:
            if verdicts.setdefault(_written(value), verdict) != verdict:
                raise ValueError(f"data.preferred has {value} twice, as {verdict} too: keep one of them.")

    def meaning(value: Any) -> str | None:
        number = _number(value)
        signs = [word for word, holds in SIGNS.items() if number is not None and holds(number)]
        return next((verdicts[word] for word in (_written(value), *signs) if word in verdicts), None)

    return meaning


def ordered(row: Mapping[str, Any], meaning: Meaning) -> dict[str, Any] | None:
    """The row with its better answer as `chosen` and the other as `rejected`; None for a tie.

    Raises:
        ValueError: an answer is missing, or the column has a value that `data.preferred` does not know. The message
            goes on from "row 1".
    """
    for name in ("first", "second", "preferred"):
        if name not in row:
            raise ValueError(
                f"has no {name}: data.columns names the two answers as first and second, and as preferred the column "
                "that says which is better."
            )
    verdict = meaning(row["preferred"])
    if verdict is None:
        raise ValueError(
            f"has {reprlib.repr(row['preferred'])} in its column preferred: say in data.preferred which values mean "
            "the first, the second and a tie, as in {first: model_a, second: model_b, tie: tie}, or {first: negative, "
            "second: positive, tie: 0}."
        )
    if verdict == "tie":
        return None
    sides = ("first", "second") if verdict == "first" else ("second", "first")
    rest = {name: value for name, value in row.items() if name not in ("first", "second", "preferred")}
    return rest | {"chosen": row[sides[0]], "rejected": row[sides[1]]}


def by_verdict(columns: dict[str, np.ndarray], verdicts: Sequence[str | None]) -> dict[str, np.ndarray]:
    """The columns, with the scores of the first and the second answer as those of the better and the worse.

    Args:
        columns: float64 [N] or [N, k] each.
        verdicts: N, what the column `preferred` says.
    """
    first, second = (columns[name] for name in SCORES_OF_SIDES)
    is_first = np.array([verdict == "first" for verdict in verdicts]).reshape(-1, *[1] * (first.ndim - 1))
    chosen, rejected = np.where(is_first, first, second), np.where(is_first, second, first)
    rest = {name: values for name, values in columns.items() if name not in SCORES_OF_SIDES}
    return rest | dict(zip(SCORES, (chosen, rejected), strict=True))


def _written(value: Any) -> str:
    """A value as one writes it, the same for all ways to write a number."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    number = _number(value)
    if number is None:
        text = str(value).strip()
        return text.lower() if text.lower() in ("true", "false") else text
    return str(int(number)) if number.is_integer() else str(number)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None
