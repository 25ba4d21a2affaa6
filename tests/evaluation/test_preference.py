from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from iwpo_fast.evaluation.preference import (
    accuracy_of_prompts,
    accuracy_words,
    mean_with_interval,
    paired_difference,
    parts_by,
    preference_accuracy,
    stratified_mean,
    wins,
    without_rounding,
)
from iwpo_kernels.weighted_preference import TIE, right


@pytest.mark.parametrize("correct, total", [(0, 10), (1, 10), (5, 10), (10, 10), (616, 1000), (1, 1), (1500, 2312)])
def test_wilson_interval_agrees_with_scipy(correct, total) -> None:
    interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    accuracy, low, high = preference_accuracy(correct, total)
    assert (accuracy, low, high) == pytest.approx((correct / total, interval.low, interval.high), abs=1e-12)


def test_wilson_interval_of_the_published_example() -> None:
    # 81 of 263: Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    _, low, high = preference_accuracy(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_ties_may_count_half() -> None:
    assert preference_accuracy(2.5, 5)[0] == 0.5


def test_no_pairs_say_nothing() -> None:
    accuracy, low, high = preference_accuracy(0, 0)
    assert math.isnan(accuracy) and (low, high) == (0.0, 1.0)


@pytest.mark.parametrize("correct, total", [(-1, 5), (6, 5), (1, 0)])
def test_impossible_counts_are_refused(correct, total) -> None:
    with pytest.raises(ValueError, match="cannot be right"):
        preference_accuracy(correct, total)


def cells(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Who was right in so many pairs each."""
    counts = [both, first, second, neither]
    return np.repeat([1.0, 1.0, 0.0, 0.0], counts), np.repeat([1.0, 0.0, 1.0, 0.0], counts)


def test_paired_difference_is_wald_s_with_half_a_pair_more_in_each_cell() -> None:
    mean, low, high = paired_difference(*cells(794, 150, 86, 570))
    assert mean == pytest.approx(64 / 1600)
    shares = np.array([794.5, 150.5, 86.5, 570.5]) / 1602
    centre = shares[1] - shares[2]
    half = 1.959963984540054 * math.sqrt((shares[1] + shares[2] - centre**2) / 1602)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-12)


@pytest.mark.parametrize("shares", [(0.6, 0.1, 0.05, 0.25), (0.7, 0.01, 0.01, 0.28), (0.3, 0.25, 0.2, 0.25)])
def test_paired_difference_covers_the_truth_in_95_percent_of_cases(shares) -> None:
    tables = np.random.default_rng(2).multinomial(200, shares, size=1500)
    truth = shares[1] - shares[2]
    covered = sum(low <= truth <= high for _, low, high in (paired_difference(*cells(*table)) for table in tables))
    assert covered / 1500 > 0.935


def test_two_models_that_agree_on_all_pairs_seen_may_differ_on_others() -> None:
    mean, low, high = paired_difference(*cells(150, 0, 0, 50))
    assert mean == 0 and -0.02 < low < -0.005 and 0.005 < high < 0.02


def test_mean_interval_of_known_values() -> None:
    mean, low, high = mean_with_interval([1.0, 2.0, 3.0, 4.0])
    half = 1.959963984540054 * math.sqrt(5 / 3) / 2
    assert (mean, low, high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))


def test_mean_interval_covers_the_truth_in_95_percent_of_cases() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(2000, 200))
    covered = sum(low <= 3.0 <= high for _, low, high in map(mean_with_interval, draws))
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)


def test_one_value_has_no_finite_interval() -> None:
    assert mean_with_interval([2.0]) == (2.0, -math.inf, math.inf)
    assert math.isnan(mean_with_interval([])[0])


def test_differences_between_levels_do_not_widen_a_stratified_interval() -> None:
    rng = np.random.default_rng(1)
    near = [rng.normal(0.0, 1.0, 300), rng.normal(0.0, 1.0, 100)]
    far = [near[0] + 100.0, near[1] - 100.0]
    widths = [high - low for _, low, high in (stratified_mean(near), stratified_mean(far))]
    assert widths[0] == pytest.approx(widths[1])
    assert stratified_mean(far)[0] == pytest.approx(np.concatenate(far).mean())


def test_a_stratified_interval_of_one_group_is_the_plain_one() -> None:
    values = np.random.default_rng(2).normal(size=50)
    assert stratified_mean([values]) == pytest.approx(mean_with_interval(values))


def test_a_difference_that_may_be_rounding_is_a_tie_as_in_training() -> None:
    sizes = np.array([3.0, 3.0, 3.0, 3.0, 0.0])
    differences = TIE * np.array([-3.1, -3.0, 2.9, 3.1, 0.0])
    found = wins(without_rounding(differences, sizes))
    in_training = right(torch.tensor(differences), TIE * torch.tensor(sizes))
    assert found.tolist() == in_training.tolist() == [0, 0.5, 0.5, 1, 0.5]


def test_pairs_of_one_prompt_widen_the_interval_and_leave_the_accuracy() -> None:
    right = np.repeat([1.0, 0.0, 1.0], [30, 10, 20])
    alone = accuracy_of_prompts(right, np.arange(60))
    assert alone == preference_accuracy(50, 60)
    share, low, high = accuracy_of_prompts(right, np.arange(60) // 5)
    assert share == alone[0] and low < alone[1] and high > alone[2]
    assert (low, high) == preference_accuracy(share * 12, 12)[1:]
    assert np.isnan(accuracy_of_prompts(right, np.zeros(60))[1:]).all()


def test_parts_of_prompts_have_the_mean_of_their_values() -> None:
    values, prompt = np.array([1.0, 0.0, 1.0, 1.0, 0.5]), np.array([4, 4, 4, 2, 9])
    parts = parts_by(prompt, values)
    assert len(parts) == 3 and parts.mean() == pytest.approx(values.mean())
    assert parts_by(np.arange(5), values) is values


def test_words_on_an_accuracy_count_prompts_where_they_are_fewer() -> None:
    assert accuracy_words(5 / 6, 6) == "95 % interval 0.436 to 0.970, 6 pairs"
    assert accuracy_words(5 / 6, 6, 1) == "6 pairs of 1 prompt"
    assert accuracy_words(0.5, 8, 2) == "95 % interval {:.3f} to {:.3f}, 8 pairs of 2 prompts".format(
        *preference_accuracy(1, 2)[1:]
    )
    assert accuracy_words(1.0, 1).endswith(", 1 pair")
