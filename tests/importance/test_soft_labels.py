from __future__ import annotations

import numpy as np

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance import PairRewards
from iwpo_fast.importance.soft_labels import AUTO, soft_labels, strength_of

REWARDS = PairRewards(
    chosen=np.array([2.0, -1.0, 0.0, 1e4, -1e4]),
    rejected=np.array([0.5, 1.0, 0.0, -1e4, 1e4]),
    cluster=np.array([0, 0, 1, 1, 1]),
    trust=np.array([0.4, 1.0]),
)


def test_soft_labels_are_the_trusted_probability_of_a_flip() -> None:
    gap = np.array([1.5, -2.0, 0.0])
    expected = 0.75 * np.array([0.4, 0.4, 1.0]) / (1 + np.exp(gap))
    np.testing.assert_allclose(soft_labels(REWARDS, 0.75)[:3], expected, rtol=1e-14)


def test_auto_is_for_irpss_alone() -> None:
    assert strength_of(WeightConfig()) == AUTO
    assert strength_of(WeightConfig(method="none")) == strength_of(WeightConfig(method="rejection")) == 0
    assert strength_of(WeightConfig(method="none", soft_labels=0.3)) == 0.3


def test_soft_labels_reach_their_bounds_at_huge_gaps() -> None:
    assert soft_labels(REWARDS, 0.75)[3:].tolist() == [0.0, 0.75]


def test_strength_zero_leaves_labels_alone() -> None:
    assert np.all(soft_labels(REWARDS, 0.0) == 0.0)
