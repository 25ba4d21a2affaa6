"""Win rates at equal lengths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from iwpo_fast.evaluation.length_control import length_controlled


def worlds(preference: float, bias: float, mean: float, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Wins of answers with this log-odds at equal lengths, by a judge with this bias to the longer one."""
    rng = np.random.default_rng(0)
    longer = rng.normal(mean, 100.0, size=n)
    odds = preference + bias * np.tanh(longer / longer.std())
    return (rng.random(n) < expit(odds)).astype(np.float64), longer


@pytest.mark.parametrize("preference", [-1.0, 0.0, 0.7])
def test_the_rate_at_equal_lengths_is_found_behind_a_bias(preference: float) -> None:
    won, longer = worlds(preference, bias=2.0, mean=80.0)
    assert won.mean() > expit(preference) + 0.1
    assert length_controlled(won, longer)(np.ones(len(won))) == pytest.approx(expit(preference), abs=0.015)


def test_where_lengths_do_not_differ_it_is_the_win_rate() -> None:
    won = np.repeat([1.0, 0.5, 0.0], [500, 200, 300])
    rate = length_controlled(won, np.zeros(1000))(np.ones(1000))
    assert rate == pytest.approx(won.mean(), abs=0.001)


def test_answers_that_always_win_have_a_finite_rate_near_one() -> None:
    rate = length_controlled(np.ones(200), np.arange(200.0))(np.ones(200))
    assert 0.9 < rate < 1


def test_a_comparison_of_weight_two_counts_as_two() -> None:
    won, longer = np.array([1.0, 1.0, 0.0, 0.5]), np.array([10.0, -10.0, 10.0, -10.0])
    twice = length_controlled(np.tile(won, 2), np.tile(longer, 2))(np.ones(8))
    assert length_controlled(won, longer)(np.full(4, 2.0)) == pytest.approx(twice, abs=1e-9)
