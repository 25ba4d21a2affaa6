"""95 % intervals of any statistic, by a bootstrap over prompts: pairs and answers of one prompt stay together."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[Float64s], float]
"""From weights [n] of the values, how often each is there, to a number."""

LEVELS = (0.025, 0.975)


class Estimate(NamedTuple):
    """A statistic and the ends of its 95 % interval; NaN where nothing can be said."""

    value: float
    low: float
    high: float


def bootstrap(statistic: Statistic, prompt: Ints, *, resamples: int, seed: int, centred: bool = False) -> Estimate:
    """A statistic with its percentile interval (Efron 1979) over resamples of the prompts.

    The same prompts and seed give the same resamples, so that several statistics of one data set go together.

    Args:
        prompt: int64 [n], which prompt each value is of, numbered from 0.
        resamples: how often as many prompts as there are, are drawn with replacement.
        centred: for a statistic that is 0 or more and larger in resamples, because noise adds to it: take the mean of
            what resamples add off the interval.

    Returns:
        NaN for the value where there is none, and for the interval where there are fewer than two prompts.
    """
    if not len(prompt):
        return Estimate(np.nan, np.nan, np.nan)
    value = statistic(np.ones(len(prompt)))
    _, prompt = np.unique(prompt, return_inverse=True)
    prompts = int(prompt.max()) + 1
    if prompts < 2:
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    share = np.full(prompts, 1 / prompts)
    drawn = (rng.multinomial(prompts, share)[prompt].astype(np.float64) for _ in range(resamples))
    values = np.array([statistic(weights) for weights in drawn])
    if centred:
        values = np.maximum(0, values - (np.nanmean(values) - value))
    low, high = np.nanquantile(values, LEVELS)
    return Estimate(value, float(low), float(high))


def mean_of(values: Float64s) -> Statistic:
    """The weighted mean of values [n]; NaN where all weights are 0."""

    def mean(weights: Float64s) -> float:
        total = float(weights.sum())
        return float(weights @ values) / total if total else np.nan

    return mean
