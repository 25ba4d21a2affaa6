"""The scores of the candidates of a row: a number for each, or a list of several rewards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from iwpo_fast.data.number import number_of
from iwpo_fast.data.votes import Score, refuse_histogram, votes_of

SCORES_OF = {"candidates": "scores", "all_generated_responses": "all_rm_scores"}


def scores_of(record: Mapping[str, Any], name: str, *, several: bool) -> Any:
    """What a row holds as the scores of its candidates, unchecked; None if nothing.

    Args:
        name: the column of the candidates.
        several: of UltraFeedback's structures the ratings of all aspects, instead of one score.
    """
    scores = record.get("candidate_scores")
    if scores is None and name in SCORES_OF:
        scores = record.get(SCORES_OF[name])
    if scores is None and are_structs(structs := record[name]):
        aspects = sorted({aspect for struct in structs for aspect in _annotations(struct)}) if several else []
        scores = [_ratings(struct, aspects) if len(aspects) > 1 else _score_of(struct) for struct in structs]
    return scores


def checked_scores(scores: Any, count: int, *, votes: bool = False) -> list[Score]:
    """As of `scores_of`, for so many candidates.

    Args:
        votes: several numbers, or a histogram, are votes on one candidate, and as many as there are of each.

    Raises:
        ValueError: they are no scores, or of another number. The message goes on from "row 1".
    """
    if scores is None:
        return [math.nan] * count
    if not isinstance(scores, list):
        raise ValueError(f"has candidate scores of type {type(scores).__name__}: make them a list, one per candidate.")
    if len(scores) != count:
        raise ValueError(f"has {count} candidates and {len(scores)} scores of them: give one score per candidate.")
    if votes:
        return [math.nan if score is None else votes_of("candidate score", score) for score in scores]
    known = [_checked(score) for score in scores if score is not None]
    lengths = {len(score) if isinstance(score, tuple) else 0 for score in known}
    if len(lengths) > 1:
        raise ValueError(
            f"has {' and '.join(_words(length) for length in sorted(lengths))} for its candidates: give each of them "
            "the same rewards, in the same order, or null."
        )
    each = iter(known)
    return [math.nan if score is None else next(each) for score in scores]


def side_by_side(columns: Mapping[str, Any]) -> list[Any] | None:
    """Several columns of scores, each a list with one for each candidate, as one list of rewards for each candidate.

    Raises:
        ValueError: one is no list, or of another length. The message goes on from "row 1".
    """
    if all(scores is None for scores in columns.values()):
        return None
    for name, scores in columns.items():
        if not isinstance(scores, list):
            raise ValueError(f"has {name} of type {type(scores).__name__}: make it a list, one score per candidate.")
    lengths = {name: len(scores) for name, scores in columns.items()}
    if len(set(lengths.values())) > 1:
        said = " and ".join(f"{length} scores in {name}" for name, length in lengths.items())
        raise ValueError(f"has {said}: give one score per candidate in each.")
    return [None if None in rewards else list(rewards) for rewards in zip(*columns.values(), strict=True)]


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean of those that are known, of each reward where they are several; NaN if none is."""
    known = [score for score in scores if not is_unknown(score)]
    lists = [score for score in known if isinstance(score, tuple)]
    if lists:
        return tuple(sum(rewards) / len(lists) for rewards in zip(*lists, strict=True))
    numbers = [score for score in known if isinstance(score, float)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def is_unknown(score: Score) -> bool:
    return not isinstance(score, tuple) and math.isnan(score)


def check_same_rewards(rewards: int, before: int) -> None:
    """Raise ValueError if two rows were compared by different numbers of rewards, as of `Compared`."""
    if rewards != before:
        raise ValueError(
            f"has {_words(rewards)} for each candidate where rows before have {_words(before)}: give all rows the same "
            "rewards."
        )


def are_structs(values: Any) -> bool:
    """A list of UltraFeedback's or Nectar's structures."""
    return (
        isinstance(values, list)
        and bool(values)
        and all(
            isinstance(value, dict) and ("response" in value or {"answer", "rank"} <= value.keys()) for value in values
        )
    )


def _checked(score: Any) -> Score:
    refuse_histogram("candidate score", score)
    if not isinstance(score, list):
        return number_of("candidate score", score)
    if not score:
        raise ValueError("has an empty list as the scores of a candidate: give its rewards, or null.")
    return tuple(number_of("candidate score", reward) for reward in score)


def _words(rewards: int) -> str:
    return f"a list of {rewards}" if rewards else "a number"


def _score_of(struct: Mapping[str, Any]) -> float | None:
    """The score of a structure of a public data set, None where it has none."""
    if "rank" in struct:
        return None if struct["rank"] is None else -number_of("rank", struct["rank"])
    ratings = [_rating(aspect) for aspect in _annotations(struct).values()]
    known = [rating for rating in ratings if rating is not None]
    mean = sum(known) / len(known) if known else None
    scores = (struct.get("fine-grained_score"), struct.get("overall_score"), mean)
    return next((score for score in scores if score is not None and score == score), None)


def _ratings(struct: Mapping[str, Any], aspects: Sequence[str]) -> list[float] | None:
    """One for each aspect; None where one is not there."""
    ratings = [_rating(_annotations(struct).get(aspect)) for aspect in aspects]
    known = [rating for rating in ratings if rating is not None]
    return known if len(known) == len(aspects) else None


def _annotations(struct: Mapping[str, Any]) -> Mapping[str, Any]:
    annotations = struct.get("annotations")
    return annotations if isinstance(annotations, dict) else {}


def _rating(aspect: Any) -> float | None:
    """UltraFeedback writes ratings as text, among them N/A."""
    text = str(aspect.get("Rating")) if isinstance(aspect, dict) else ""
    return float(text) if text.replace(".", "", 1).isdecimal() else None
