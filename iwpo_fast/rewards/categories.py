"""Ordered categories of graded responses, and the distributions over them that heads are to give."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iwpo_fast.config import CategoryConfig
from iwpo_fast.rewards.blocks import Float64s, Ints

LEAST_GRADED = 20
"""Graded responses below which no distribution is learnt."""


class Graded(NamedTuple):
    """What was said of the grades of n responses.

    Attributes:
        response: [n] int64, rows of the responses that have a grade.
        values: w [d] fp64, ascending, of the categories.
        targets: p [n, d] fp64.
    """

    response: Ints
    values: Float64s
    targets: Float64s


def graded(grades: Float64s, settings: CategoryConfig) -> Graded:
    """Categories and target distributions of the responses that have grades.

    Each grade is a vote for its category. The target is the mean of a Dirichlet distribution after these votes, before
    which it was as all grades are, worth `settings.prior` votes; then a share of the mass moves to categories beside.

    Args:
        grades: [C, J], by J annotators, NaN where one gave none.

    Raises:
        ValueError: too few responses are graded, or all alike.
    """
    response = np.flatnonzero(~np.isnan(grades).all(axis=1))
    if len(response) < LEAST_GRADED:
        raise ValueError(
            f"rewards.heads is dprm and {len(response)} responses have scores, too few to learn distributions of: give "
            f"at least {LEAST_GRADED} of them scores, or set rewards.heads to auto."
        )
    values, votes = _votes(grades[response], settings.count)
    prior = settings.prior * votes.sum(axis=0) / votes.sum()
    targets = (prior + votes) / (settings.prior + votes.sum(axis=1, keepdims=True))
    return Graded(response, values, smoothed(targets, settings.smoothing))


def _votes(grades: Float64s, count: int) -> tuple[Float64s, Float64s]:
    """Values [d] and votes [n, d]: of every grade that occurs, or of `count` bins of one width if those are more."""
    given = grades[~np.isnan(grades)]
    values = np.unique(given)
    if len(values) < 2:
        raise ValueError(
            f"rewards.heads is dprm and all scores are {values[0]:g}, so no response is better than another: give "
            "other scores, or set rewards.heads to auto."
        )
    if len(values) > count:
        edges = np.linspace(values[0], values[-1], count + 1)
        values = (edges[:-1] + edges[1:]) / 2
        category = np.clip(np.searchsorted(edges, grades, side="right") - 1, 0, count - 1)
    else:
        category = np.clip(np.searchsorted(values, grades), 0, len(values) - 1)
    votes = np.zeros((len(grades), len(values)))
    row, annotator = np.nonzero(~np.isnan(grades))
    np.add.at(votes, (row, category[row, annotator]), 1.0)
    return values, votes


def smoothed(targets: Float64s, share: float) -> Float64s:
    """[n, d], with a share of each category's mass in equal parts on those beside it; an end has one beside it."""
    ends = np.zeros_like(targets)
    ends[:, 1:] += targets[:, :-1] * np.where(np.arange(targets.shape[1] - 1) == 0, 1.0, 0.5)
    ends[:, :-1] += targets[:, 1:] * np.where(np.arange(targets.shape[1] - 1) == targets.shape[1] - 2, 1.0, 0.5)
    return np.asarray((1 - share) * targets + share * ends)
