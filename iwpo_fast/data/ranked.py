"""All scored candidates of a row, for objectives that compare more than two completions at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from iwpo_fast.data.pairs import Between, Pairs
from iwpo_fast.data.ragged import bounds_of
from iwpo_fast.data.rows import Rows

OF_PAIRS = {"dpo_ranked": "sigmoid", "drpo": "sigmoid", "spo_best": "spo_pairs", "spo_ranked": "spo_pairs"}
"""What each is of two completions."""


def with_candidates_between(
    pairs: Pairs, rows: Rows, objective: str, *, ordered: bool = True, scored: bool = False
) -> Pairs:
    """The pairs with those of their candidates that have a score, each from the best to the worst; ties as they came.

    Candidates go with the pair of their own row, because rows of one prompt may be rankings by several people; where
    that pair was left out, they are too.

    Args:
        rows: what the pairs were read as.
        objective: what reads them, for messages.
        ordered: it reads their order, in which chosen is the first and rejected the last.
        scored: it reads their scores.

    Raises:
        ValueError: there are none, or one is `ordered` and does not lie between chosen and rejected by its score.
    """
    candidates = pairs.candidates
    if candidates is None or not np.isfinite(candidates.columns.get("score", np.empty(0))).any():
        raise ValueError(
            f"The objective {objective} compares all scored candidates of a row, and no row of {rows.source} has more "
            f"than two: give rows of candidates and candidate_scores, or choose {OF_PAIRS[objective]}."
        )
    assert rows.candidates is not None
    scores, of_row = candidates.columns["score"], _pair_of_row(pairs, len(rows))[rows.candidates.row[candidates.source]]
    known = np.flatnonzero(np.isfinite(scores) & (of_row >= 0))
    order = known[np.lexsort((-scores[known], of_row[known]))]
    pair = of_row[order]
    if ordered:
        _check_between(pairs, rows, objective, pair, scores[order])
    offsets = bounds_of(np.bincount(pair, minlength=len(pairs)))
    between = Between(candidates.completions.take(order), offsets, scores=scores[order] if scored else None)
    return replace(pairs, candidates=None, between=between)


def _pair_of_row(pairs: Pairs, rows: int) -> np.ndarray:
    """int64 [rows], the pair that each row has become; -1 where it was left out."""
    found = np.full(rows, -1, dtype=np.int64)
    found[pairs.row] = np.arange(len(pairs))
    return found


def _check_between(pairs: Pairs, rows: Rows, objective: str, pair: np.ndarray, scores: np.ndarray) -> None:
    nan = np.full(len(pairs), np.nan)
    best, worst = (pairs.columns.get(f"score_{side}", nan)[pair] for side in ("chosen", "rejected"))
    outside = ~((scores <= best) & (scores >= worst))
    if outside.any():
        raise ValueError(
            f"{rows.where(int(pairs.row[pair[outside.argmax()]]))} has a candidate whose score is not between those of "
            f"chosen and rejected, so that {objective} cannot order them: leave chosen and rejected out of such rows, "
            "and data.pairs_from_candidates at best_worst."
        )
