"""The fastest of many calls, in little time: all are timed once, the better half more often, and so on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.harness import quartiles
from benchmarks.operators import interleaved
from benchmarks.suite import Run

FINALISTS = 2  # of each group, beside the default
FINAL_ROUNDS = 40
LEAST_GAIN = 0.01


@dataclass(frozen=True)
class Standing:
    """How one call did, in the last rounds that it took part in.

    Attributes:
        times_ms: samples.
        over_default: of those rounds, time over that of the default, its median.
        is_faster: see `is_faster`; only of a finalist.
    """

    times_ms: list[float]
    over_default: float
    is_faster: bool = False


def is_faster(times_ms: Sequence[float], default_ms: Sequence[float]) -> bool:
    """By more than noise: its upper quartile is below the default's lower one, and its median 1 % below the median."""
    ours, theirs = quartiles(list(times_ms)), quartiles(list(default_ms))
    assert ours is not None and theirs is not None, "both were timed"
    return ours["high"] < theirs["low"] and ours["median"] <= (1 - LEAST_GAIN) * theirs["median"]


def race(
    runs: Mapping[str, Run], default: str, groups: Sequence[Sequence[str]], device: torch.device, deadline: float
) -> dict[str, Standing]:
    """How every call stands against the default.

    Args:
        runs: warm.
        default: takes part in every round.
        groups: of the others; each keeps its own better half, so that one which may do more drives no other out.
        deadline: by `time.monotonic`, of the last rounds, which are at least three.
    """
    standings: dict[str, Standing] = {}
    rounds = 1
    while True:
        running = [default, *(key for group in groups for key in group)]
        is_final = all(len(group) <= FINALISTS for group in groups) or time.monotonic() > deadline
        if is_final:
            groups = [group[:FINALISTS] for group in groups]
            running = [default, *(key for group in groups for key in group)]
        times = interleaved(
            {key: [runs[key]] for key in running},
            FINAL_ROUNDS if is_final else rounds,
            device,
            seed=rounds,
            deadline=deadline,
        )
        for key in running:
            ratios = [ours / theirs for ours, theirs in zip(times[key], times[default], strict=True)]
            standings[key] = Standing(times[key], median(ratios), is_final and is_faster(times[key], times[default]))
        if is_final:
            return standings
        groups = [_better_half(group, standings) for group in groups]
        rounds *= 2


def _better_half(group: Sequence[str], standings: Mapping[str, Standing]) -> list[str]:
    best_first = sorted(group, key=lambda key: standings[key].over_default)
    return best_first[: max(FINALISTS, (len(group) + 1) // 2)]
