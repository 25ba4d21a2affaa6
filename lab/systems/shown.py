"""What an experiment on a system shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Shown(NamedTuple):
    """A claim, whether it holds, and the numbers that say so.

    Attributes:
        claim: one sentence, fixed before the run.
        holds: whether the numbers agree with it.
        rows: the table, its first row the head.
        numbers: everything measured, for the JSON file.
        note: what a reader of the table must know, or nothing.
    """

    claim: str
    holds: bool
    rows: Sequence[Sequence[str]]
    numbers: Mapping[str, Any]
    note: str = ""

    def as_text(self) -> str:
        """Markdown: the claim, whether it holds, the table."""
        from lab.experiment import as_table

        verdict = "It holds." if self.holds else "It does not hold."
        return "\n\n".join(part for part in (f"{self.claim} {verdict}", as_table(self.rows), self.note) if part)
