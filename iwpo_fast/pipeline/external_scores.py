"""Scores that the data bring, of every response: in columns of pairs and beside candidates."""

from __future__ import annotations

import numpy as np

from iwpo_fast.config import RewardConfig
from iwpo_fast.data import Pairs, Rows
from iwpo_fast.data.unique import Responses
from iwpo_fast.data.votes import are_absent, of_one_width
from iwpo_fast.rewards.checks import check_has_scores


def grades_of_responses(rows: Rows, pairs: Pairs) -> np.ndarray:
    """float64 [C, J] of every response by J annotators, NaN where there is none.

    Raises:
        ValueError: naming rows, a response has another score in another place.
    """
    responses, columns = Responses.of(pairs), pairs.columns
    response = np.concatenate([responses.chosen, responses.rejected])
    score = np.concatenate([columns["score_chosen"], columns["score_rejected"]])
    row = np.tile(pairs.row, 2)
    if (candidates := pairs.candidates) is not None and len(candidates) and "score" in candidates.columns:
        response = np.concatenate([response, responses.candidates])
        score = np.concatenate(of_one_width([score, candidates.columns["score"]]))
        row = np.concatenate([row, pairs.row[candidates.pair]])
    graded = ~are_absent(score)
    response, score, row = response[graded], score.reshape(len(score), -1)[graded], row[graded]
    _check_one_score(rows, row, response, score)
    found = np.full((len(responses), score.shape[1]), np.nan)
    found[response] = score
    return found


def scores_of_responses_in(rows: Rows, pairs: Pairs, settings: RewardConfig) -> tuple[np.ndarray, np.ndarray]:
    """Responses, int64 [n], and their scores [n, members], of chosen, rejected and candidates.

    Args:
        rows: what the pairs were read from.

    Raises:
        ValueError: naming rows, a response has no score, or another one in another place.
    """
    check_has_scores(pairs.columns, settings)
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
    _check_one_score(rows, row, response, score)
    return response, score


def _check_one_score(rows: Rows, row: np.ndarray, response: np.ndarray, score: np.ndarray) -> None:
    _, first, which = np.unique(response, return_index=True, return_inverse=True)
    other = ~((score == score[first[which]]) | (np.isnan(score) & np.isnan(score[first[which]]))).all(axis=1)
    if other.any():
        pair = int(other.argmax())
        two = f"rows {rows.numbers[row[first[which[pair]]]]} and {rows.numbers[row[pair]]}"
        raise ValueError(f"In {rows.source}, a completion has different scores in different pairs, {two}: give it one.")
