"""Columns of numbers that are not read, and those whose name says that they were meant to be."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from iwpo_fast.data.columns import NUMBERS
from iwpo_fast.nearest import nearest

COUNTS = ("id", "qid", "uid", "idx", "index")
"""Last words of names of columns that number rows, of which nothing need be said."""


class UnreadNumbers:
    """Goes through what rows hold beside our columns.

    Args:
        columns: `DataConfig.columns`; what is left out there needs no word.
    """

    def __init__(self, columns: Mapping[str, str | None]) -> None:
        self._left_out = {ours for ours, theirs in columns.items() if theirs is None}
        self._used = {theirs for theirs in columns.values() if theirs}
        self._counts: dict[str, int] = {}
        self._meant: dict[str, str | None] = {}

    def __call__(self, others: Mapping[str, Any]) -> None:
        """Count what a row has.

        Args:
            others: columns of the source that mean nothing to us.
        """
        for name, value in others.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name not in self._used and (is_number or self._meant_by(name)) and value is not None:
                self._counts[name] = self._counts.get(name, 0) + 1

    def notes(self, read: Container[str] = ()) -> dict[str, int]:
        """As in `Rows.notes`: a line for each name that is near to one of ours, and one line for all others.

        Args:
            read: those of ours that the rows have, which no other name was meant for.
        """
        near = {name: meant for name in self._counts if (meant := self._meant_by(name)) and meant not in read}
        found = {
            f"{name} is not read, did you mean {meant}? (--data.columns '{{{meant}: {name}}}')": self._counts[name]
            for name, meant in near.items()
        }
        others = [name for name in self._counts if name not in near and not _counts_rows(name)]
        if others:
            found[f"numbers that are not read, in {', '.join(others)}"] = max(self._counts[name] for name in others)
        return found

    def _meant_by(self, name: str) -> str | None:
        if name not in self._meant:
            self._meant[name] = meant_by(name, [ours for ours in NUMBERS if ours not in self._left_out])
        return self._meant[name]


def meant_by(name: str, columns: Sequence[str]) -> str | None:
    """The one of these columns that a name is near to, if one is; `chosen_score` is `score_chosen`."""
    turned = {tuple(sorted(ours.split("_"))): ours for ours in columns}
    return turned.get(tuple(sorted(name.lower().split("_")))) or nearest(name, columns)


def _counts_rows(name: str) -> bool:
    return name.startswith("__") or name.lower().split("_")[-1] in COUNTS
