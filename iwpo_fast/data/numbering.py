"""What rows are called in messages."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple


class Numbering(NamedTuple):
    """By file and number in it, where a source has several files.

    Attributes:
        title: of the whole source.
        files: the name of each file, and the last number before its first row; numbers go on from file to file.
    """

    title: str
    files: tuple[tuple[str, int], ...] = ()

    def where(self, number: int) -> str:
        """Such as "In pairs.jsonl, row 3"."""
        if len(self.files) < 2:
            return f"In {self.title}, row {number}"
        name, before = self.files[bisect_left(self.files, number, key=lambda file: file[1]) - 1]
        return f"In {name}, row {number - before}"

    def behind(self, last: int) -> tuple[tuple[str, int], ...]:
        """The files, where the numbers begin behind `last`."""
        return tuple((name, before + last) for name, before in self.files or ((self.title, 0),))
