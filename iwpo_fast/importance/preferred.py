"""Preferred samples: pairs drawn among all candidates of a prompt, by their importance for the target policy.

With r̃ the rewards of a prompt's candidates in log-odds, q their importance (`candidate_importance`), each draw takes

    the preferred sample j ~ q, and an opponent uniformly among the other candidates, or by q as well
    ε = σ(-(r̃_j - r̃_opponent))            probability that the opponent is the better one

A response that was compared has evidence of its own: half of the shift of its pair's gap, up or down
(`posterior_rewards`). Drawing pairs with hard labels instead lost to DPO in every regime of the laboratory. Only the
abstract of IWPO is public: the formulas are this project's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.importance.posterior import candidate_importance

if TYPE_CHECKING:
    from iwpo_fast.rewards import PairTable

Float64s = NDArray[np.float64]
Ints = NDArray[np.int64]


class PreferredPairs(NamedTuple):
    """D drawn pairs.

    Attributes:
        chosen, rejected: int64 [D], rows of the preferred sample and its opponent.
        label_smoothing: float64 [D] in (0, 1), probability that the opponent is the better one.
    """

    chosen: Ints
    rejected: Ints
    label_smoothing: Float64s


def posterior_rewards(reward: Float64s, table: PairTable, shift: Float64s) -> Float64s:
    """Rewards [C] with the evidence of the labels.

    Args:
        reward: [C], calibrated rewards.
        table: the labelled pairs.
        shift: [P], what each label adds to the gap of its pair (`posterior_shift`).
    """
    moved = np.array(reward, dtype=np.float64)
    np.add.at(moved, table.chosen, shift / 2)
    np.subtract.at(moved, table.rejected, shift / 2)
    return moved


def preferred_pairs(
    reward: Float64s,
    prompt_of: Ints,
    draws: int,
    *,
    tau: float = 1.0,
    opponent: Literal["uniform", "importance"] = "uniform",
    seed: int,
) -> PreferredPairs:
    """Draw pairs from the candidates of every prompt that has two or more.

    Args:
        reward: [C], r̃, finite.
        prompt_of: int64 [C], prompt of each candidate, in any order.
        draws: pairs of each prompt.
        tau: temperature of the target.
        opponent: `uniform` contrasts the preferred sample with the proposal, `importance` with the target itself.
        seed: of the draws.
    """
    order = np.argsort(prompt_of, kind="stable")
    _, first, count = np.unique(prompt_of[order], return_index=True, return_counts=True)
    several = count > 1
    first, count = np.repeat(first[several], draws), np.repeat(count[several], draws)
    q = candidate_importance(reward, prompt_of, tau=tau)[order]
    rng = np.random.default_rng(seed)
    chosen = _drawn(q, first, count, rng)
    weights = np.ones_like(q) if opponent == "uniform" else q
    rejected = _drawn(weights, first, count, rng, without=chosen)
    chosen, rejected = order[chosen], order[rejected]
    gap = reward[chosen] - reward[rejected]
    return PreferredPairs(chosen, rejected, np.exp(-np.logaddexp(0.0, gap)))


def effective_candidates(q: Float64s, prompt_of: Ints) -> Float64s:
    """1 / Σ q² of each prompt that occurs, in ascending order: among how many candidates its importance is shared."""
    _, prompt = np.unique(prompt_of, return_inverse=True)
    return 1 / np.bincount(prompt, np.square(q))


def _drawn(weights: Float64s, first: Ints, count: Ints, rng: np.random.Generator, without: Ints | None = None) -> Ints:
    """One row for each group first..first + count of sorted rows, with probability in proportion to the weights.

    Args:
        without: a row of each group that is not drawn.
    """
    total = np.concatenate([[0.0], np.cumsum(weights)])
    low, high = total[first], total[first + count]
    point = rng.random(len(first))
    if without is None:
        drawn = np.searchsorted(total, low + point * (high - low), side="right") - 1
        return np.clip(drawn, first, first + count - 1)
    left_out = weights[without]
    point = low + point * np.maximum(high - low - left_out, 0)
    point = np.where(point >= total[without], point + left_out, point)  # skips the row that is left out
    drawn = np.clip(np.searchsorted(total, point, side="right") - 1, first, first + count - 1)
    neighbour = np.where(without > first, without - 1, without + 1)  # where rounding hits the row after all
    return np.where(drawn == without, neighbour, drawn)
