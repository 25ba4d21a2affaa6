"""Scores that the data bring, of every response: in columns of pairs and beside candidates."""

from __future__ import annotations

import numpy as np

from iwpo_fast.data import Pairs, Rows
from iwpo_fast.data.unique import Responses
from iwpo_fast.rewards.checks import check_has_scores


def scores_of_responses_in(rows: Rows, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Responses, int64 [n], and their scores [n, members], of chosen, rejected and candidates.

    Args:
        rows: what the pairs were read from.

    Raises:
        ValueError: naming rows, a response has no score, or another one in another place.
    """
    check_has_scores(pairs.columns)
    responses = Responses.of(pairs)
    row = np.tile(pairs.row, 2)
    response = np.concatenate([responses.chosen, responses.rejected])
    score = np.concatenate([pairs.columns["score_chosen"], pairs.columns["score_rejected"]])
    score = score.reshape(len(response), -1)
    if (candidates := pairs.candidates) is not None and len(candidates):
        row = np.concatenate([row, pairs.row[candidates.pair]])
        response = np.concatenate([response, responses.candidates])
        if score.shape[1] > 1:
            raise ValueError(f"{rows.source} has lists of scores of pairs and one score per candidate: give one each.")
        score = np.concatenate([score, candidates.columns["score"][:, None]])
    absent = np.isnan(score).any(axis=1)
    if absent.any():
        raise ValueError(
            f"{rows.where(row[absent][0])} lacks a score although rewards.source is columns: give every "
            "pair both scores and every candidate one, or leave them out."
        )
    _, first, which = np.unique(response, return_index=True, return_inverse=True)
    other = (score != score[first[which]]).any(axis=1)
    if other.any():
        pair = int(other.argmax())
        two = f"rows {rows.numbers[row[first[which[pair]]]]} and {rows.numbers[row[pair]]}"
        raise ValueError(f"In {rows.source}, a completion has different scores in different pairs, {two}: give it one.")
    return response, score
