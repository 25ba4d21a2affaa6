"""The account of what became of every pair between the source and training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.data.seams import APART, COMMON, MOVED
from iwpo_fast.terminal import escaped

SEAMS = {
    MOVED: "white space moved from the end of the prompt to the answers, because their tokens merge",
    APART: "prompt and answers tokenised apart, because their tokens merge",
    COMMON: "the chat template ends prompts with what it does not repeat before answers, so answers are "
    "trained from where the two part",
}
"""What the ledger says of rows to which this was done."""


@dataclass(frozen=True)
class Ledger:
    """Counts of pairs; `rows_read` is `kept` plus the reasons of `dropped`.

    Attributes:
        source: what the rows were read from.
        rows_read: pairs that came in.
        kept: pairs that go to training.
        max_length, truncation: the limit in tokens, and the policy for what exceeds it.
        too_long: pairs longer than the limit, whatever became of them.
        dropped_prefix_mismatch: completions do not continue the prompt, as text or as tokens.
        dropped_too_long: dropped by the policy `drop`.
        dropped_empty: a completion has no token, or none is left after the cut.
        dropped_identical: chosen and rejected are the same after the cut, so their pair has no gradient.
        prompts_cut: kept pairs whose prompt lost tokens.
        prompts_cut_away: those of them of which almost nothing is left.
        completions_cut: completions of kept pairs that lost tokens.
        equal_scores: kept pairs whose `score_chosen` equals their `score_rejected`.
        dropped_unpaired: rows none of whose responses is better than another: ties, and candidates of one score.
        candidates: empty where the data have none, or else counts of them: `read`, of which `in_pairs` are what pairs
            were made of and `kept` run beside the pairs, some of them `cut`; and why others were `dropped_…`.
        unread: columns whose texts are in no text of their rows, with the number of rows.
        notes: how texts were read where that is not plain to see, in words, with the number of them.
        plain_for_chat: the rows are plain text and the model has a chat template.
        seams: encoded rows whose prompt's tokens were not the first of prompt + completion, by what was done to them
            (`iwpo_fast.data.seams`), in words.
        left_out: what the chat template does not write, and of how many rows.
        with_context: kept pairs of which some tokens behind the prompt are context, because they are not the
            assistant's.
        desirable, undesirable: kept rows of one completion, by what their label says.
    """

    source: str
    rows_read: int
    kept: int
    max_length: int
    truncation: str
    too_long: int
    dropped_prefix_mismatch: int
    dropped_too_long: int
    dropped_empty: int
    dropped_identical: int
    prompts_cut: int
    completions_cut: int
    equal_scores: int
    dropped_unpaired: int = 0
    prompts_cut_away: int = 0
    candidates: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    plain_for_chat: bool = False
    seams: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    with_context: int = 0
    desirable: int = 0
    undesirable: int = 0

    @property
    def dropped(self) -> dict[str, int]:
        """Number of dropped pairs for each reason that occurred."""
        reasons = {
            "whose completions do not continue the prompt": self.dropped_prefix_mismatch,
            f"longer than {self.max_length} tokens": self.dropped_too_long,
            "with a completion of which no token is trained": self.dropped_empty,
            "with two identical completions": self.dropped_identical,
            "without a better and a worse response": self.dropped_unpaired,
        }
        return {reason: count for reason, count in reasons.items() if count}

    @property
    def truncated_fraction(self) -> float:
        """Share of all pairs that were longer than the limit, and so were cut or dropped."""
        return self.too_long / self.rows_read

    @property
    def _kind(self) -> str:
        return "rows" if self.desirable or self.undesirable else "pairs"

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.source}: {self.rows_read:,} {self._kind} read, {self.kept:,} kept"]
        if self.dropped:
            lines.append("  dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items()))
        if self.prompts_cut or self.completions_cut:
            lines.append(
                f"  cut to {self.max_length} tokens ({self.truncation}): prompts {self.prompts_cut:,}, "
                f"completions {self.completions_cut:,}"
            )
        if self.prompts_cut_away:
            lines.append(
                f"  prompts of which almost nothing is left: {self.prompts_cut_away:,} (raise data.max_length, or "
                "leave them out by data.truncation drop)"
            )
        if self.desirable or self.undesirable:
            lines.append(f"  of one completion: {self.desirable:,} desirable, {self.undesirable:,} undesirable")
        if self.equal_scores:
            lines.append(f"  equal scores: {self.equal_scores:,}")
        if self.candidates:
            lines.append(f"  candidates: {counted(self.candidates)}")
        lines += [f"  {line}" for line in reading_lines(self.unread, self.notes)]
        if self.plain_for_chat:
            lines.append("  plain text as it is, although the model has a chat template: data.as_chat true puts it in")
        return lines + self._about_rendering()

    def _about_rendering(self) -> list[str]:
        """What was done to texts on their way to tokens, each in one line."""
        lines = [f"  {what}: {count:,} rows" for what, count in self.seams.items()]
        if self.with_context:
            lines.append(
                f"  answers of several turns, of which only the assistant's are trained: {self.with_context:,}"
            )
        return lines + [f"  {line}" for line in left_out_lines(self.left_out)]

    def as_json(self) -> dict[str, Any]:
        """The counts as JSON can hold them."""
        ledger = asdict(self)
        del ledger["plain_for_chat"]  # it is no count
        later = ("candidates", "dropped_unpaired", "unread", "notes", "seams", "left_out", "with_context")
        for name in (*later, "prompts_cut_away", "desirable", "undesirable"):
            if not ledger[name]:  # as before there were any
                del ledger[name]
        return ledger

    def save(self, path: Path) -> None:
        """Write as JSON."""
        from iwpo_fast.files import save_json

        save_json(path, self.as_json())


def counted_seams(seams: np.ndarray) -> dict[str, int]:
    """`Ledger.seams` of what was done to each row."""
    counts = {what: int((seams == how).sum()) for how, what in SEAMS.items()}
    return {what: count for what, count in counts.items() if count}


def reading_lines(unread: Mapping[str, int], notes: Mapping[str, int]) -> list[str]:
    """What reading left out of rows, and how it read texts, for people."""
    columns = ", ".join(f"{escaped(name)} ({count:,} rows)" for name, count in unread.items())
    left_out = [f"left out, because their texts stand in no text of the row: {columns}"] if unread else []
    return left_out + [f"{escaped(what)}: {count:,}" for what, count in notes.items()]


def left_out_lines(left_out: Mapping[str, int]) -> list[str]:
    """What the chat template does not write, for people."""
    return [f"the chat template leaves out {what}: {count:,} rows" for what, count in left_out.items()]


def counted(counts: Mapping[str, int]) -> str:
    """What became of candidates, for people."""
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count)
