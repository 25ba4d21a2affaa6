"""Estimates with 95 % intervals: preference accuracy, and means of rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from iwpo_fast.words import several
from iwpo_kernels.weighted_preference import TIE, right

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def wins(differences: np.ndarray) -> np.ndarray:
    """float64 of the same shape: 1 where the first of two is better, by a positive difference; a tie counts half.

    The accuracy of a training counts by the same function.
    """
    return right(torch.tensor(differences), torch.zeros(())).numpy()


def without_rounding(differences: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The same differences, float64, with 0 where one may be rounding alone, so that it is a tie as in training.

    Args:
        sizes: of the numbers that each is the difference of, summed.
    """
    return np.where(np.abs(differences) <= TIE * sizes, 0.0, differences)


def preference_accuracy(correct: float, total: int) -> tuple[float, float, float]:
    """Fraction of pairs ordered rightly, with its Wilson score interval (Wilson 1927).

    Args:
        correct: pairs ordered rightly; a tie may count half.
        total: all pairs.

    Returns:
        Accuracy and the ends of its 95 % interval; accuracy NaN and [0, 1] if there are no pairs.

    Raises:
        ValueError: `correct` is not between 0 and `total`.
    """
    if total == 0 and correct == 0:
        return math.nan, 0.0, 1.0
    if not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} pairs cannot be right: give a count between 0 and the total.")
    rate = correct / total
    shrink = 1 + Z95**2 / total
    centre = (rate + Z95**2 / (2 * total)) / shrink
    half = Z95 / shrink * math.sqrt(rate * (1 - rate) / total + (Z95 / (2 * total)) ** 2)
    return rate, max(0.0, centre - half), min(1.0, centre + half)


def accuracy_of_prompts(right: np.ndarray, prompt: np.ndarray) -> tuple[float, float, float]:
    """Fraction of pairs ordered rightly, with Wilson's interval of as many pairs as there are prompts.

    Pairs of one prompt share it and often an answer. How much they have in common is not known, so that they count as
    one: the interval is too wide rather than too narrow, and as `preference_accuracy` has it where each prompt has one.

    Args:
        right: float64 [n], 1 where a pair is right, 1/2 for a tie.
        prompt: int64 [n], which prompt each is of.

    Returns:
        Accuracy and the ends of its 95 % interval, which are NaN where several pairs are of one prompt.
    """
    prompts = len(np.unique(prompt))
    if prompts == len(right):
        return preference_accuracy(float(right.sum()), len(right))
    return float(right.mean()), *ends_by_prompts(float(right.mean()), prompts)


def ends_by_prompts(accuracy: float, prompts: int) -> tuple[float, float]:
    """The ends of the interval of `accuracy_of_prompts`, of several pairs to each of some prompts."""
    return (math.nan, math.nan) if prompts < 2 else preference_accuracy(accuracy * prompts, prompts)[1:]


def accuracy_words(accuracy: float, pairs: int, prompts: int = 0) -> str:
    """Interval and numbers behind a held-out accuracy, as in `95 % interval 0.436 to 0.970, 6 pairs`.

    Args:
        prompts: of the pairs, where there are fewer of them; else 0.
    """
    _, *ends = preference_accuracy(accuracy * pairs, pairs)
    low, high = ends_by_prompts(accuracy, prompts) if prompts else ends
    known = "" if math.isnan(low) else f"95 % interval {low:.3f} to {high:.3f}, "
    of = f" of {several(prompts, 'prompt')}" if prompts else ""
    return f"{known}{several(pairs, 'pair')}{of}"


def parts_by(prompt: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 [prompts], what the values [n] of each prompt add to their mean, which is the mean of these parts too."""
    _, place, sizes = np.unique(prompt, return_inverse=True, return_counts=True)
    prompts = len(sizes)
    return values if prompts == len(values) else np.bincount(place, values) * (prompts / len(values))


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Difference of two accuracies on the same pairs, with a 95 % interval of Agresti and Min (2005).

    Their interval is the normal one after half a pair more in each of the four cells of who was right, so that two
    models that agree on all pairs seen are not taken to agree on all others.

    Args:
        first, second: float64 [n], 1 where each is right, 1/2 for a tie.

    Returns:
        Mean of `first - second`, and the ends of the interval.
    """
    difference, n = first - second, len(first) + 2
    centre = float(difference.sum()) / n
    spread = (float(np.square(difference).sum()) + 1) / n - centre**2
    half = Z95 * math.sqrt(spread / n)
    return float(difference.mean()), max(-1.0, centre - half), min(1.0, centre + half)


def mean_with_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean of independent values [n], with its normal 95 % interval, mean ± 1.96 s/√n.

    Returns:
        Mean and the ends of the interval; the interval is infinite for fewer than two values, the mean NaN for none.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return (float(array[0]) if array.size else math.nan), -math.inf, math.inf
    mean = float(array.mean())
    half = Z95 * float(array.std(ddof=1)) / math.sqrt(array.size)
    return mean, mean - half, mean + half


def stratified_mean(groups: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Mean over all values of several groups, with the 95 % interval that the spread inside the groups gives.

    For groups of fixed size, such as the tasks of an evaluation set: differences between their levels are no
    uncertainty of the overall mean.

    Args:
        groups: values of each group, two or more each.
    """
    total = sum(len(group) for group in groups)
    mean = sum(float(np.sum(group)) for group in groups) / total
    variance = sum(len(group) * float(np.var(group, ddof=1)) for group in groups) / total**2
    half = Z95 * math.sqrt(variance)
    return mean, mean - half, mean + half
