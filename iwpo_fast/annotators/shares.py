"""Rows with what a training on types needs of them: their annotators, and how far these are of each type."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from iwpo_fast.annotators.posterior import Floats
from iwpo_fast.data.annotators import ANNOTATOR, NOBODY, SHARES
from iwpo_fast.data.rows import Rows


def names_of(rows: Rows, held_out: Rows | None) -> tuple[str, ...]:
    """All annotators, those of the training rows first.

    Raises:
        ValueError: a row names none, or has a probability that its label is wrong.
    """
    names: dict[str, None] = {}
    for part in (rows,) if held_out is None else (rows, held_out):
        _check(part)
        assert part.annotators is not None
        names |= dict.fromkeys(part.annotators.names)
    return tuple(names)


def check_orders(rows: Rows, objective: str) -> None:
    """Raise ValueError where two completions of a row have one score, because no order is between them.

    Args:
        objective: what reads the orders, for the message.
    """
    if rows.candidates is None:
        return
    sides = [rows.columns.get(f"score_{side}", np.full(len(rows), np.nan)) for side in ("chosen", "rejected")]
    row = np.concatenate([np.arange(len(rows)), np.arange(len(rows)), rows.candidates.row])
    score = np.concatenate([*sides, rows.candidates.scores])
    order = np.lexsort((score, row))
    equal = (np.diff(row[order]) == 0) & (np.diff(score[order]) == 0)
    if equal.any():
        raise ValueError(
            f"{rows.where(int(row[order[equal.argmax()]]))} has two completions of one score, and types with "
            f"{objective} tells annotators by whole orders: leave out one of the two, or its score."
        )


def with_shares(rows: Rows, names: tuple[str, ...], gamma: Floats) -> Rows:
    """The rows with the place of their annotator among the names, and the annotator's share [K] of each type."""
    assert rows.annotators is not None
    place = rows.annotators.numbered_by({name: number for number, name in enumerate(names)})
    columns = {ANNOTATOR: place.astype(np.float64), SHARES: gamma[place]}
    return replace(rows, columns=rows.columns | columns)


def _check(rows: Rows) -> None:
    if rows.annotators is None:
        raise ValueError(
            f"types is set, and no row of {rows.source} names its annotator, a text or an integer in the column "
            f"{ANNOTATOR}: name yours in data.columns, such as {{{ANNOTATOR}: worker_id}}, or leave types out."
        )
    nobody = np.flatnonzero(rows.annotators.of_row == NOBODY)
    if len(nobody):
        others = f" (the first of {len(nobody)})" if len(nobody) > 1 else ""
        raise ValueError(
            f"{rows.where(int(nobody[0]))}{others} has no {ANNOTATOR} that is a text or an integer, which types needs: "
            "give every row one, or leave such rows out."
        )
    if "label_smoothing" in rows.columns:
        raise ValueError(
            f"{rows.source} has the column label_smoothing and types is set, but annotators are told apart by the "
            "likelihood of their votes as they are: leave it out with data.columns {label_smoothing: null}."
        )
