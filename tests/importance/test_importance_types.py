from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from importance_cases import FULL

from iwpo_fast.importance import Candidates, PairRewards, PairWeights, pair_weights

TWO = np.array([1.0, 2.0])
ZERO = np.zeros(2, dtype=np.int64)
CANDIDATES = Candidates(np.array([1.0, 2.0, 0.0, 0.5]), np.array([0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": np.array([])}, "no pairs to weigh"),
        ({"rejected": np.zeros(3)}, r"rejected has shape \(3,\)"),
        ({"chosen": np.array([1.0, np.nan])}, "chosen holds a reward that is not finite"),
        ({"cluster": np.array([0, -1])}, "cluster must be 2 integers from 0 up"),
        ({"cluster": np.array([0.0, 1.0])}, "cluster must be 2 integers"),
        ({"cluster": np.array([0, 3])}, "in cluster 3, but trust has 2 entries"),
        ({"trust": np.array([0.5, 1.5])}, r"trust must be one number in \[0, 1\]"),
        ({"trust": np.array([0.5, np.nan])}, r"trust must be one number in \[0, 1\]"),
        ({"prompt": None}, "give the prompt of each pair"),
        ({"prompt": ZERO, "cluster": np.array([0, 1])}, "one prompt are in different clusters"),
    ],
)
def test_rewards_that_do_not_fit_together_are_refused(change: dict[str, Any], message: str) -> None:
    good = PairRewards(TWO, TWO, ZERO, np.ones(2), prompt=np.arange(2), candidates=CANDIDATES)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(good, **change)


def make_weights(ess: float, cluster_ess: list[float], cluster_pairs: list[int]) -> PairWeights:
    pairs = sum(cluster_pairs)
    return PairWeights(np.ones(pairs), np.zeros(pairs), None, 2.0, ess, np.array(cluster_ess), np.array(cluster_pairs))


def test_a_low_effective_size_is_refused_unless_forced() -> None:
    weights = make_weights(0.05, [0.05], [400])
    with pytest.raises(
        ValueError,
        match=r"is 5\.0% of all 400 pairs, below weights\.min_ess 10\.0%: raise weights\.tau.*weights\.force",
    ):
        weights.check(FULL)
    weights.check(dataclasses.replace(FULL, force=True))
    weights.check(dataclasses.replace(FULL, min_ess=0.05))


def test_a_low_effective_size_of_a_large_cluster_is_refused_and_of_a_small_one_is_not() -> None:
    with pytest.raises(ValueError, match=r"is 4\.0% of the 300 pairs of cluster 1,"):
        make_weights(0.2, [0.9, 0.04, np.nan], [300, 300, 0]).check(FULL)
    make_weights(0.2, [0.9, 0.04, np.nan], [300, 20, 0]).check(FULL)


def test_an_effective_size_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is nan% of all 400 pairs"):
        make_weights(math.nan, [0.5], [400]).check(FULL)
    with pytest.raises(ValueError, match=r"is nan% of the 400 pairs of cluster 0"):
        make_weights(0.5, [math.nan], [400]).check(FULL)


def test_one_pair_that_outweighs_all_is_refused() -> None:
    chosen = np.zeros(1000)
    chosen[17] = 100.0
    rewards = PairRewards(chosen, np.zeros(1000), np.zeros(1000, dtype=np.int64), np.ones(1))
    weights = pair_weights(rewards, FULL, seed=0)
    assert weights.ess == pytest.approx(1 / 1000)
    with pytest.raises(ValueError, match=r"effective sample size is 0\.1%"):
        weights.check(FULL)
