"""Which candidates of a prompt become pairs, by one score each or by several rewards."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

from iwpo_fast.config import PairsFromCandidates
from iwpo_fast.data.candidate_scores import is_unknown
from iwpo_fast.data.fronts import fronts
from iwpo_fast.data.votes import Score
from iwpo_fast.data.win_rates import mean_win_rates

Couple = tuple[int, int]
"""The places of a better and a worse candidate."""
TEMPERATURE = 1.0
"""Of several rewards, where `data.win_rate_temperature` is null: of log-odds as Bradley-Terry's model learns them."""


class Pairing(NamedTuple):
    """Settings of pairs that are made of candidates.

    Attributes:
        how: `DataConfig.pairs_from_candidates`.
        temperature: `DataConfig.win_rate_temperature`.
        votes: several scores of a candidate are votes on it, and not rewards.
    """

    how: PairsFromCandidates = "best_worst"
    temperature: float | None = None
    votes: bool = False


class Compared(NamedTuple):
    """Candidates of a prompt that scores have compared.

    Attributes:
        values: of all K, NaN where unknown: their score, or their mean win rate.
        couples: those that become pairs.
        rewards: how many calibrated rewards compared them; 0 where scores are as they were given.
    """

    values: list[float]
    couples: list[Couple]
    rewards: int


def compared(scores: Sequence[Score], keys: Sequence[str], pairing: Pairing) -> Compared:
    """The couples among candidates whose score is known.

    Args:
        scores: K scores, or K lists of as many rewards.
        keys: K texts that tell the candidates, and prompts, apart; they decide what is drawn.

    Raises:
        ValueError: fronts of a single reward are asked for. The message goes on from "row 1".
    """
    known = [k for k, score in enumerate(scores) if not is_unknown(score)]
    rewards = [_as_rewards(scores[k]) for k in known]
    is_listed = any(isinstance(score, tuple) for score in scores)
    calibrated = len(rewards[0]) if is_listed or pairing.temperature is not None else 0
    if pairing.how == "pareto":
        _check_several(len(rewards[0]))
    values = [math.nan] * len(scores)
    for k, value in zip(known, _values(rewards, calibrated > 0, pairing.temperature), strict=True):
        values[k] = value
    if pairing.how == "pareto":
        return Compared(values, _between_fronts(known, rewards, keys), calibrated)
    return Compared(values, _by_value(known, values, pairing.how), calibrated)


def _values(rewards: list[tuple[float, ...]], calibrate: bool, temperature: float | None) -> list[float]:
    if not calibrate:
        return [reward for (reward,) in rewards]
    if len(rewards) < 2:  # no other to win against
        return [math.nan] * len(rewards)
    return mean_win_rates(rewards, TEMPERATURE if temperature is None else temperature)


def _by_value(known: Sequence[int], values: Sequence[float], how: PairsFromCandidates) -> list[Couple]:
    """The best with the worst, or all, if they differ."""
    ranked = sorted(known, key=lambda k: -values[k])
    couples = [(ranked[0], ranked[-1])] if how == "best_worst" else _all(ranked)
    return [(best, worst) for best, worst in couples if values[best] > values[worst]]


def _all(ranked: Sequence[int]) -> list[Couple]:
    return [(best, worst) for place, best in enumerate(ranked) for worst in ranked[place + 1 :]]


def _between_fronts(known: Sequence[int], rewards: Sequence[Sequence[float]], keys: Sequence[str]) -> list[Couple]:
    """One of the upper front and one of the lowest, drawn by a hash of their texts; none if there is a single front.

    Each draw is uniform, and depends on neither the order of rows and candidates nor on processes.
    """
    upper, *lower = fronts(rewards)
    if not lower:
        return []
    best, worst = (min(front, key=lambda place: _drawn(keys[known[place]])) for front in (upper, lower[-1]))
    return [(known[best], known[worst])]


def _drawn(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _as_rewards(score: Score) -> tuple[float, ...]:
    return score if isinstance(score, tuple) else (score,)


def _check_several(rewards: int) -> None:
    if rewards < 2:
        raise ValueError(
            "has one score for each candidate, and data.pairs_from_candidates is pareto, which compares several "
            "rewards: give a list of scores for each, or set best_worst, which a single reward's fronts come to."
        )
