"""All scored candidates of a row in order, for objectives that compare more than two completions at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from iwpo_fast.data.pairs import Between, Pairs
from iwpo_fast.data.ragged import bounds_of
from iwpo_fast.data.rows import Rows


def with_candidates_between(pairs: Pairs, rows: Rows, objective: str) -> Pairs:
    """The pairs with those of their candidates that have a score, each from the best to the worst; ties as they came.

    Args:
        rows: what the pairs were read as.
        objective: what reads them, for messages.

    Raises:
        ValueError: there are none, one does not lie between chosen and rejected by its score, or a prompt has its
            candidates in several rows.
    """
    candidates = pairs.candidates
    if candidates is None or not np.isfinite(candidates.columns.get("score", np.empty(0))).any():
        raise ValueError(
            f"The objective {objective} compares all scored candidates of a row, and no row of {rows.source} has more "
            "than two: give rows of candidates and candidate_scores, or choose spo_pairs."
        )
    assert rows.candidates is not None
    _check_own_rows(pairs, rows, objective, rows.candidates.row[candidates.source])
    scores = candidates.columns["score"]
    scored = np.flatnonzero(np.isfinite(scores))
    order = scored[np.lexsort((-scores[scored], candidates.pair[scored]))]
    pair = candidates.pair[order]
    _check_between(pairs, rows, objective, pair, scores[order])
    offsets = bounds_of(np.bincount(pair, minlength=len(pairs)))
    return replace(pairs, candidates=None, between=Between(candidates.completions.take(order), offsets))


def _check_own_rows(pairs: Pairs, rows: Rows, objective: str, row: np.ndarray) -> None:
    """Refuse candidates that stand with the pair of another row, because the two have one prompt."""
    assert pairs.candidates is not None
    other = row != pairs.row[pairs.candidates.pair]
    if other.any():
        raise ValueError(
            f"{rows.where(int(row[other.argmax()]))} has the prompt of a row before it, and {objective} cannot compare "
            "scores of two rows: put all candidates of a prompt into one row."
        )


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
