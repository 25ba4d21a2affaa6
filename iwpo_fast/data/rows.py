"""Preference pairs as text, whatever form they came in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from iwpo_fast.data.annotators import Annotators
from iwpo_fast.data.arrow_rows import taken
from iwpo_fast.data.numbering import Numbering

Message = dict[str, Any]
Text = str | list[Message]


@dataclass(frozen=True)
class Candidates:
    """K responses to the prompts of N rows that are neither chosen nor rejected there, in canonical form.

    Attributes:
        texts: K texts, of the kind of the rows', in a list or stored.
        row: int64 [K], the row whose prompt each of them answers.
        columns: float64 [K] each, NaN where unknown: `score`, [K, J] where it is votes; of sampled ones `draws`, how
            often each was drawn, `ended`, 1 if it ended by itself, `log_mu` and `log_model`, its log-prob in nats under
            the sampler and under the model itself.
        left_out: int64 [N] each, by row, what was read beside these: `in_pairs`, those that the row's pairs were made
            of, `duplicate`, which equal another response of the row, and `empty`.
    """

    texts: Sequence[Text]
    row: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    left_out: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def scores(self) -> np.ndarray:
        """float64 [K], NaN for a candidate without a score; [K, J] where scores are votes."""
        return self.columns.get("score", np.full(len(self), np.nan))

    @property
    def counts(self) -> dict[str, int]:
        """What was read, and what became of it, as in `Ledger.candidates`."""
        in_pairs, duplicate, empty = (
            int(self.left_out[name].sum()) if name in self.left_out else 0
            for name in ("in_pairs", "duplicate", "empty")
        )
        read = len(self) + in_pairs + duplicate + empty
        dropped = {"dropped_duplicate": duplicate, "dropped_empty": empty}
        return {"read": read, "in_pairs": in_pairs, "kept": len(self), **dropped}

    def of_rows(self, rows: np.ndarray, total: int) -> Candidates:
        """Those of the given ones of `total` rows, which are numbered anew; a row that is there twice has them once."""
        place = np.full(total, -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        kept = np.flatnonzero(place[self.row] >= 0)
        return Candidates(
            taken(self.texts, kept),
            place[self.row[kept]],
            {name: values[kept] for name, values in self.columns.items()},
            {name: counts[rows] for name, counts in self.left_out.items()},
        )


@dataclass(frozen=True)
class Rows:
    """N preference pairs in canonical form: the completions follow the prompt and do not repeat it.

    Attributes:
        source: what the rows were read from, for messages.
        numbers: int64 [N], number of each row in its source, from 1; in JSONL the line.
        prompt, chosen, rejected: N texts each, all of them strings or all of them lists of messages; those of data are
            stored (`iwpo_fast.data.arrow_rows`), because they may be larger than memory.
        columns: float64 [N] each, the numeric columns that the source has.
        template: for each conversation what its chat template is given beside the messages, such as `tools`.
        mismatches: rows left out because their completions do not follow one prompt.
        candidates: further responses to these prompts; None where the source has none.
        unpaired: rows left out because no response of theirs is better than another.
        unread: columns whose texts are in no text of their rows, with the number of rows.
        notes: how texts were read where that is not plain to see, in words, with the number of them.
        files: as of `Numbering`, where the source has several files.
        present: bool [N, 2], which completions the rows have; None where all have both. A row with one of them has it
            as chosen and as rejected (`iwpo_fast.data.unpaired`).
        annotators: who gave the label of each row; None where no row says so.
    """

    source: str
    numbers: np.ndarray
    prompt: Sequence[Text]
    chosen: Sequence[Text]
    rejected: Sequence[Text]
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    template: Sequence[dict[str, Any]] | None = None
    mismatches: int = 0
    candidates: Candidates | None = None
    unpaired: int = 0
    unread: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    files: tuple[tuple[str, int], ...] = ()
    present: np.ndarray | None = None
    annotators: Annotators | None = None

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def conversational(self) -> bool:
        return bool(self.prompt) and not isinstance(self.prompt[0], str)

    def where(self, row: int) -> str:
        """What a row is called in messages, such as "In pairs.jsonl, row 3"."""
        return Numbering(self.source, self.files).where(int(self.numbers[row]))

    def texts(self) -> Iterator[str]:
        """Every prompt, completion and candidate, a conversation as the contents of its messages."""
        for texts in zip(self.prompt, self.chosen, self.rejected, strict=True):
            for text in texts:
                yield from contents(text)
        for text in self.candidates.texts if self.candidates else ():
            yield from contents(text)

    def without_candidates(self) -> Rows:
        return self if self.candidates is None else replace(self, candidates=None)

    def take(self, rows: np.ndarray) -> Rows:
        """The given rows, in the given order, with their candidates; rows that were left out are not among them."""
        return replace(
            self,
            mismatches=0,
            unpaired=0,
            unread={},
            notes={},
            candidates=None if self.candidates is None else self.candidates.of_rows(rows, len(self)),
            numbers=self.numbers[rows],
            prompt=taken(self.prompt, rows),
            chosen=taken(self.chosen, rows),
            rejected=taken(self.rejected, rows),
            columns={name: values[rows] for name, values in self.columns.items()},
            template=None if self.template is None else taken(self.template, rows),
            present=None if self.present is None else some_absent(self.present[rows]),
            annotators=None if self.annotators is None else self.annotators.take(rows),
        )


def first_single(present: np.ndarray) -> int:
    """The first row of one completion, given `Rows.present`."""
    return int(np.flatnonzero(~present.all(1))[0])


def some_absent(present: np.ndarray) -> np.ndarray | None:
    """`Rows.present` of rows with these completions, bool [N, 2]."""
    return None if present.all() else present


def contents(text: Text) -> Iterator[str]:
    """The strings in a text: itself, or the contents of its messages."""
    if isinstance(text, str):
        yield text
        return
    for message in text:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):  # of rows that are not checked yet, anything may be in it
            texts = (part.get("text") for part in content if isinstance(part, dict))
            yield from (text for text in texts if isinstance(text, str) and text)
