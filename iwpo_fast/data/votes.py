"""Votes of several annotators on one response: their grades in a list, or how many of them gave each grade."""

from __future__ import annotations

import math
import reprlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from iwpo_fast.data.number import number_of
from iwpo_fast.data.strict_json import loads

Score = float | tuple[float, ...]
"""Of one response: a number, NaN where it is unknown, or several numbers: rewards, all known, or votes."""

MOST_VOTES = 10_000
"""On one response, because each takes a place in an array."""


def votes_of(name: str, value: Any) -> Score:
    """What a row holds as the grades of a response, in whichever form.

    Args:
        value: a number, a list of numbers and nulls, or a histogram as of `of_histogram`.

    Raises:
        ValueError: it is none of these. The message goes on from "row 1".
    """
    if isinstance(value, dict):
        return tuple(of_histogram(name, value))
    if not isinstance(value, list):
        return number_of(name, value)
    if not value:
        raise ValueError(f"has an empty list as its {name}: give the votes, or null.")
    votes = tuple(math.nan if vote is None else number_of(name, vote) for vote in value)
    return math.nan if all(map(math.isnan, votes)) else votes


def of_histogram(name: str, counts: Mapping[str, Any]) -> list[float]:
    """The votes that a histogram counts, from the lowest grade to the highest, as a list of them would have them.

    Args:
        counts: how many annotators gave each grade, such as {"1": 3, "4": 2}; null, as tables write it where other rows
            have a grade, is none.

    Raises:
        ValueError: a grade is no number, a count is no whole number of 0 or more, or there are no votes or too many.
            The message goes on from "row 1".
    """
    of = {_grade(name, grade): 0 for grade in counts}
    for grade, count in counts.items():
        of[_grade(name, grade)] += _count(name, grade, count)
    total = sum(of.values())
    if not total:
        raise ValueError(f"has the {name} {reprlib.repr(counts)}, which counts no votes: give some, or null.")
    if total > MOST_VOTES:
        raise ValueError(
            f"has the {name} {reprlib.repr(counts)}, which counts {total} votes: divide the counts, so that they are "
            f"{MOST_VOTES} at most."
        )
    return [grade for grade in sorted(of) for _ in range(of[grade])]


def refuse_histogram(name: str, value: Any) -> None:
    """Raise ValueError for a histogram of votes where nothing learns from votes. The message goes on from "row 1"."""
    if isinstance(value, dict):
        raise ValueError(
            f"has the {name} {reprlib.repr(value)}, which counts votes: learn from them by iwpo run with rewards.heads "
            "dprm, or give a number."
        )


def all_votes(scores: Sequence[Score]) -> Score:
    """The votes on a response that stands in several places, as one; NaN if there are none."""
    known = [score for score in scores if isinstance(score, tuple) or not math.isnan(score)]
    if len(known) < 2:
        return known[0] if known else math.nan
    return tuple(vote for score in known for vote in (score if isinstance(score, tuple) else (score,)))


def mean_vote(score: Score) -> float:
    """NaN where there is none; the same in whatever order votes stand."""
    if isinstance(score, float):
        return score
    votes = [vote for vote in score if not math.isnan(vote)]
    return math.fsum(votes) / len(votes)


class ScoreStore:
    """Takes the scores of responses in turn, and gives them back as one array."""

    def __init__(self) -> None:
        self._values: array[float] = array("d")
        self._lengths = array("i")
        self._several = False

    def append(self, score: Score) -> None:
        if isinstance(score, tuple):
            self._several = True
            self._values.extend(score)
            self._lengths.append(len(score))
        else:  # by itself, because most data have one score and many rows
            self._values.append(score)
            self._lengths.append(1)

    def finish(self) -> np.ndarray:
        """float64 [N], or [N, J] with NaN behind the shorter ones, where any score was several."""
        values, lengths = np.array(self._values), np.array(self._lengths)
        if not self._several:
            return values
        found = np.full((len(lengths), lengths.max()), np.nan)
        found[np.arange(found.shape[1]) < lengths[:, None]] = values
        return found


def stored_scores(scores: Iterable[Score]) -> np.ndarray:
    """As of `ScoreStore.finish`."""
    store = ScoreStore()
    for score in scores:
        store.append(score)
    return store.finish()


def of_one_width(scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """float64 arrays [N] as they are, or all as [N, J] with NaN behind, where any of them is."""
    if all(values.ndim == 1 for values in scores):
        return list(scores)
    tables = [values.reshape(len(values), values.shape[1] if values.ndim > 1 else 1) for values in scores]
    width = max(table.shape[1] for table in tables)
    return [np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=np.nan) for table in tables]


def are_absent(scores: np.ndarray) -> np.ndarray:
    """bool [N], of scores [N] or [N, J]: nobody gave one."""
    return np.asarray(np.isnan(scores).all(axis=tuple(range(1, scores.ndim))))


def _grade(name: str, written: str) -> float:
    grade: Any = written
    with suppress(ValueError, RecursionError):
        grade = loads(str(written))
    return number_of(f"grade in {name}", grade)


def _count(name: str, grade: str, count: Any) -> int:
    if count is None:
        return 0
    votes = number_of(f"number of votes for {grade} in {name}", count)
    if votes < 0 or not votes.is_integer():
        raise ValueError(
            f"has {count} votes for {grade} in {name}: make it a whole number, 0 or more, of those who gave this grade."
        )
    return int(votes)
