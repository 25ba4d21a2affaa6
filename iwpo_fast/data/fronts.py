"""Pareto fronts of candidates that several rewards compare."""

from __future__ import annotations

from collections.abc import Sequence


def fronts(rewards: Sequence[Sequence[float]]) -> list[list[int]]:
    """Candidates by front, the upper one first: those that no other dominates, then those of what is left, and so on.

    A candidate dominates another if it is nowhere worse and somewhere better. Equal candidates are of one front. A rate
    of winning rises with its reward, so the fronts of calibrated rewards are those of the rewards themselves; these are
    compared, because rates of rewards far apart round to the same number.

    Args:
        rewards: [N, L].
    """
    left, found = list(range(len(rewards))), []
    while left:
        front = [i for i in left if not any(_dominates(rewards[j], rewards[i]) for j in left)]
        found.append(front)
        left = [i for i in left if i not in set(front)]
    return found


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
