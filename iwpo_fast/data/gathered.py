"""Rows in canonical form, taken one after the other while a source is read, so that none waits in memory."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from iwpo_fast.data.annotators import AnnotatorStore
from iwpo_fast.data.arrow_rows import RareStore, Store
from iwpo_fast.data.candidates import LEFT_OUT, PairOfRow, RowOfPairs
from iwpo_fast.data.columns import SCORES
from iwpo_fast.data.numbering import Numbering
from iwpo_fast.data.rows import Candidates, Rows, Text, some_absent
from iwpo_fast.data.votes import ScoreStore, are_absent, of_one_width

INTEGER, BYTE = "q", "b"
"""Kinds of `array`, of eight bytes and of one."""


class GatheredRows:
    """The pairs of rows, and what else these hold.

    Args:
        votes: several scores of a response are votes on it, of whichever annotators.

    Attributes:
        prompt_ids: the `prompt_id` of every pair, or None.
        annotators: who gave the label of every pair.
        unpaired: rows without a pair.
    """

    def __init__(self, *, votes: bool = False) -> None:
        self._votes = votes
        self.prompt_ids: RareStore[Any] = RareStore(None)
        self.annotators = AnnotatorStore()
        self.unpaired = 0
        self._numbers, self._places = array(INTEGER), array(INTEGER)
        self._scores = ScoreStore(), ScoreStore()
        self._present = array(BYTE)
        self._texts: tuple[Store[Text], ...] = (Store(), Store(), Store())
        self._template: RareStore[dict[str, Any]] = RareStore({})
        self._candidates = _GatheredCandidates()

    def __len__(self) -> int:
        return len(self._numbers)

    def add(
        self,
        place: int,
        number: int,
        row: RowOfPairs,
        arguments: dict[str, Any],
        *,
        prompt_id: Any = None,
        annotator: Any = None,
    ) -> None:
        """Args:
        place: of the row among those that were read.
        number: of the row in its source.
        arguments: what it gives its chat template.
        prompt_id, annotator: of the columns of these names.
        """
        self._candidates.add(len(self), row)
        self.unpaired += not row.pairs
        for pair in row.pairs:
            self._numbers.append(number)
            self._places.append(place)
            for scores, score in zip(self._scores, pair.scores, strict=True):
                scores.append(score)
            self._present.extend((pair.desirable is not False, pair.desirable is not True))
            self._add_texts(pair)
            self._template.append(arguments)
            self.prompt_ids.append(prompt_id)
            self.annotators.append(annotator)

    def finish(self, columns: Mapping[str, np.ndarray], numbering: Numbering) -> Rows:
        """All pairs as rows; none can be added any more.

        Args:
            columns: float64 [N, ...] each, numbers of all rows that were read.
        """
        places = np.array(self._places)
        prompt, chosen, rejected = (store.finish() for store in self._texts)
        rows = Rows(
            source=numbering.title,
            numbers=np.array(self._numbers),
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            columns=self._with_scores({name: values[places] for name, values in columns.items()}),
            template=self._template.finish(),
            unpaired=self.unpaired,
            files=numbering.files if len(numbering.files) > 1 else (),
            present=some_absent(np.array(self._present, dtype=bool).reshape(-1, 2)),
            annotators=self.annotators.finish(),
        )
        return replace(rows, candidates=self._candidates.finish(len(rows)))

    def _add_texts(self, pair: PairOfRow) -> None:
        for store, text in zip(self._texts, pair.texts, strict=True):
            store.append(text)

    def _with_scores(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns, with the scores that candidates bring of chosen and rejected, where the columns have none."""
        scores = [store.finish() for store in self._scores]
        given = [columns.get(name, np.full(len(self), np.nan)) for name in SCORES]
        by_models = not self._votes and any(values.ndim > 1 for values in given)
        if by_models or all(are_absent(values).all() for values in scores):
            return columns
        *given, chosen, rejected = of_one_width([*given, *scores])
        found = [_filled(*both) for both in zip(given, (chosen, rejected), strict=True)]
        return columns | dict(zip(SCORES, found, strict=True))


def _filled(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Scores [N] or [N, J], with others where nobody gave one."""
    absent = are_absent(scores).reshape(-1, *[1] * (scores.ndim - 1))
    return np.where(absent, others, scores)


class _GatheredCandidates:
    """The candidates of rows, each behind the first pair of its row."""

    def __init__(self) -> None:
        self._texts: Store[Text] = Store()
        self._row, self._first = array(INTEGER), array(INTEGER)
        self._score = ScoreStore()
        self._left_out: Sequence[array[int]] = [array(INTEGER) for _ in LEFT_OUT]
        self._are_there = False

    def add(self, first: int, row: RowOfPairs) -> None:
        """Args:
        first: the first pair of the row, if it has any.
        """
        self._are_there |= row.others is not None
        if row.others is None or not row.pairs:
            return
        self._first.append(first)
        for counts, name in zip(self._left_out, LEFT_OUT, strict=True):
            counts.append((row.left_out or {}).get(name, 0))
        for text, score in row.others:
            self._texts.append(text)
            self._row.append(first)
            self._score.append(score)

    def finish(self, pairs: int) -> Candidates | None:
        """None if no row has any."""
        if not self._are_there:
            return None
        left_out = {name: np.zeros(pairs, dtype=np.int64) for name in LEFT_OUT}
        for counts, of_first in zip(left_out.values(), self._left_out, strict=True):
            counts[np.array(self._first)] = of_first
        return Candidates(
            texts=self._texts.finish(),
            row=np.array(self._row),
            columns={"score": self._score.finish()},
            left_out=left_out,
        )
