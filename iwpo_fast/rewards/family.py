"""A family of reward models, each of which learns from other pairs (after arXiv 2405.19316, as understood here).

A member at a rate ρ learns from pairs that are drawn with replacement so that, among those whose responses differ in
length, the longer response is the chosen one in a share ρ. No label is changed: pairs whose label says so are drawn
more often, and others less. A member of a subset learns from some of the prompts, without bias.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.config import FamilyConfig
from iwpo_fast.rewards.blocks import Float64s, Ints
from iwpo_fast.rewards.pair_table import PairTable
from iwpo_fast.rewards.report import pair_accuracy

Bools = NDArray[np.bool_]

ROUNDING = 1e-9
"""Of tokens: in floats a tenth of 30 is more than 3."""


class Member(NamedTuple):
    """What a member learns from: pairs at a rate, a share of the prompts, or with neither all pairs as they are."""

    rate: float | None = None
    share: float | None = None


def members_of(asked: FamilyConfig) -> list[Member]:
    """The members in the order in which heads, scores and reports have them."""
    biased = [[Member()] if isinstance(rate, str) else [Member(rate)] * asked.resamples for rate in asked.rates]
    return [member for of_rate in biased for member in of_rate] + [Member(share=asked.share)] * asked.subsets


def longer_side(lengths: Ints, longer_by: float) -> Ints:
    """[P] int64: 1 where the chosen response is longer by at least that share, -1 where the rejected one is, else 0.

    Args:
        lengths: [P, 2] int64, tokens of the chosen and of the rejected response.
    """
    chosen, rejected = lengths.T
    more, shorter = chosen - rejected, np.minimum(chosen, rejected)
    return np.sign(more) * (np.abs(more) >= longer_by * shorter - ROUNDING)


def shown_to(
    asked: FamilyConfig, member: int, prompt: Ints, lengths: Ints | None, seen: Bools, seed: tuple[int, ...]
) -> Float64s:
    """How often [P] a member is shown each pair, 0 for pairs that are not `seen`.

    Args:
        member: which of `members_of`.
        prompt: [P], of every pair.
        lengths: [P, 2], for members at a rate.
        seen: bool [P], the pairs of other folds.

    Raises:
        ValueError: the rate cannot be reached, because no pair has the longer response chosen, or rejected.
    """
    rate, share = members_of(asked)[member]
    random = np.random.default_rng(seed)
    if share is not None:
        return _of_subset(prompt, seen, share, random)
    if rate is None:
        return seen.astype(np.float64)
    assert lengths is not None, "features of a biased family have lengths"
    return _resampled(longer_side(lengths, asked.longer_by), seen, rate, random)


def check_rates(asked: FamilyConfig, lengths: Ints, fold: Ints, folds: int) -> None:
    """Raise ValueError if a rate cannot be reached from the pairs that the heads of some fold are shown.

    Args:
        lengths: [P, 2] int64.
        fold: [P] int64, of the prompts.
    """
    longer = longer_side(lengths, asked.longer_by)
    for rate in asked.biased:
        for f in range(folds):
            _sides(longer, (fold != f) | (folds == 1), rate)


def report_family(asked: FamilyConfig, rewards: Float64s, table: PairTable, lengths: Ints | None) -> dict[str, Any]:
    """What is known of every member, from its raw rewards [C, members] by heads that did not see the prompt.

    Args:
        lengths: [C] int64, tokens of every response; None leaves out what is said of them.

    Returns:
        `longer`: the share of the pairs in which the longer response is chosen, among the `differing` ones.
        `members`: for each its `rate`, its `share` of the prompts, its `accuracy` on the labels as they are, and
            `length`, the correlation over all pairs in both orders of the gap of rewards with the gap of tokens.
    """
    gaps = rewards[table.chosen] - rewards[table.rejected]
    members = [
        member._asdict() | {"accuracy": pair_accuracy(gap)}
        for member, gap in zip(members_of(asked), gaps.T, strict=True)
    ]
    if lengths is None:
        return {"members": members}
    both = np.stack([lengths[table.chosen], lengths[table.rejected]], axis=1)
    longer, more = longer_side(both, asked.longer_by), (both[:, 0] - both[:, 1]).astype(np.float64)
    differing = int((longer != 0).sum())
    return {
        "longer": float((longer == 1).sum() / differing) if differing else None,
        "differing": differing,
        "members": [row | {"length": _correlation(gap, more)} for row, gap in zip(members, gaps.T, strict=True)],
    }


def _of_subset(prompt: Ints, seen: Bools, share: float, random: np.random.Generator) -> Float64s:
    prompts = np.unique(prompt[seen])
    some = random.choice(prompts, max(1, round(share * len(prompts))), replace=False)
    return (seen & np.isin(prompt, some)).astype(np.float64)


def _resampled(longer: Ints, seen: Bools, rate: float, random: np.random.Generator) -> Float64s:
    """Pairs of equal length once, and n draws of the n others, of which ρ n have the longer response chosen."""
    weights = seen.astype(np.float64)
    for rows, draws in _sides(longer, seen, rate):
        weights[rows] = np.bincount(random.integers(max(1, len(rows)), size=draws), minlength=len(rows))
    return weights


def _sides(longer: Ints, seen: Bools, rate: float) -> list[tuple[Ints, int]]:
    """The pairs whose longer response is chosen, and those whose longer one is rejected, each with how many to draw."""
    of_chosen, of_rejected = (np.flatnonzero(seen & (longer == side)) for side in (1, -1))
    total = len(of_chosen) + len(of_rejected)
    draws = round(rate * total)
    sides = [(of_chosen, draws), (of_rejected, total - draws)]
    if not total or any(count and not len(rows) for rows, count in sides):
        which = "chosen" if not len(of_chosen) else "rejected"
        raise ValueError(
            f"rewards.family.rates names {rate:g}, and of the pairs that some heads are shown none has the longer "
            f"response {which}: give more pairs, lower rewards.family.longer_by, or leave that rate out."
        )
    return sides


def _correlation(gap: Float64s, more: Float64s) -> float:
    """Of gaps that change their sign with the order of a pair, over both orders; 0 where one is always 0."""
    size = float(np.sqrt((gap @ gap) * (more @ more)))
    return float(gap @ more) / size if size else 0.0
