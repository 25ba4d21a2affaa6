"""Intervals by a bootstrap over prompts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from iwpo_fast.evaluation.bootstrap import bootstrap, mean_of
from iwpo_fast.evaluation.preference import mean_with_interval


def interval(values: np.ndarray, prompt: np.ndarray, **options: bool) -> tuple[float, float, float]:
    return bootstrap(mean_of(values), prompt, resamples=2000, seed=0, **options)


def test_with_a_pair_for_each_prompt_the_interval_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found, normal = interval(values, np.arange(400)), mean_with_interval(values)
    assert found[0] == pytest.approx(normal[0])
    np.testing.assert_allclose(found[1:], normal[1:], atol=0.01)


def test_pairs_of_one_prompt_count_once() -> None:
    values = np.random.default_rng(0).normal(size=100)
    once = interval(values, np.arange(100))
    five_times = interval(np.repeat(values, 5), np.repeat(np.arange(100) * 7, 5))
    np.testing.assert_allclose(five_times, once)


def test_one_prompt_has_no_interval_and_none_no_value() -> None:
    value, low, high = interval(np.array([1.0, 0.0]), np.array([3, 3]))
    assert value == 0.5 and math.isnan(low) and math.isnan(high)
    assert all(map(math.isnan, interval(np.empty(0), np.empty(0, dtype=np.int64))))


def test_what_noise_adds_to_a_size_is_taken_off_its_interval() -> None:
    values = np.random.default_rng(1).normal(size=50)

    def size(weights: np.ndarray) -> float:
        return abs(float(weights @ values)) / 50

    value = size(np.ones(50))
    plain = bootstrap(size, np.arange(50), resamples=2000, seed=0)
    centred = bootstrap(size, np.arange(50), resamples=2000, seed=0, centred=True)
    assert 0 <= centred.low <= value <= centred.high < plain.high
