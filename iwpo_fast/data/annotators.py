"""Who gave the label of each row: every name once, and a number for each row."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np

from iwpo_fast.terminal import is_text

ANNOTATOR = "annotator"
"""Our name of the column."""

SHARES = "type_shares"
"""Column of a training on types of annotators, [N, K]: how far the annotator of a row is of each type."""

NOBODY = -1


@dataclass(frozen=True)
class Annotators:
    """The annotators of N rows.

    Attributes:
        names: every annotator once, in the order of appearance; the integer 3 is `3`, as in files that are text.
        of_row: int64 [N], place of each row's annotator in `names`; `NOBODY` where the row names none.
    """

    names: tuple[str, ...]
    of_row: np.ndarray

    def take(self, rows: np.ndarray) -> Annotators:
        """Those of the given rows, in the given order; all names stay."""
        return replace(self, of_row=self.of_row[rows])

    def numbered_by(self, place: Mapping[str, int]) -> np.ndarray:
        """int64 [N], the annotators by other numbers."""
        of_name = np.array([place[name] for name in self.names] + [NOBODY])
        return of_name[self.of_row]


class AnnotatorStore:
    """Takes the annotators of rows one after the other; without any it keeps nothing."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._nobody_before = 0
        self._of_row = array("q")

    def append(self, value: Any) -> None:
        """Args:
        value: of the column; whatever is no name stands for nobody, because most trainings need no annotator.
        """
        name = _name(value)
        if name is None and not self._names:
            self._nobody_before += 1
            return
        self._of_row.append(NOBODY if name is None else self._names.setdefault(name, len(self._names)))

    def finish(self) -> Annotators | None:
        """None if no row names one."""
        if not self._names:
            return None
        before = np.full(self._nobody_before, NOBODY)
        return Annotators(tuple(self._names), np.concatenate([before, np.array(self._of_row, dtype=np.int64)]))


def annotators_of_all(parts: Sequence[tuple[Annotators | None, int]]) -> Annotators | None:
    """Of several data sets, given those of each and its number of rows; one name is one annotator in all of them."""
    if all(part is None for part, _ in parts):
        return None
    known = [part or Annotators((), np.full(rows, NOBODY)) for part, rows in parts]
    names = tuple(dict.fromkeys(name for part in known for name in part.names))
    place = {name: number for number, name in enumerate(names)}
    return Annotators(names, np.concatenate([part.numbered_by(place) for part in known]))


def _name(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | Integral) or not is_text(value):
        return None
    return str(value).strip() or None
