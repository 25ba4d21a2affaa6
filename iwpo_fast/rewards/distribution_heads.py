"""Heads that say how a response would be graded: a distribution over ordered categories.

After DPRM, Li et al., arXiv 2402.09764, as understood here: its text was not at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit, softmax

from iwpo_fast.rewards.blocks import Float32s, Float64s, Groups, Ints, float32_blocks
from iwpo_fast.rewards.stored_heads import StoredHeads

SUREST = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class DistributionHeads(StoredHeads):
    """p(x, y) = softmax(Uᵀ Pᵀ f(x, y) + c_z) over d categories of the values w, for each of E heads in every fold.

    The reward is the expected value r = Σ_i w_i p_i, and its variance, by how differently graders would judge, is
    Σ_i w_i² p_i - r². It is part of the spread of a score, beside how far heads disagree.

    Attributes:
        mean, scale: [d_f] fp32, by which features are standardised.
        projection: P [d_f, p] fp32, onto the directions in which standardised features f vary most.
        vectors: U [p, folds · E, d] fp32.
        bias: c [G, folds · E, d] fp32, of each cluster.
        values: w [d] fp64, ascending.
        slope: [folds, E] fp64, log-odds of the pairs that a head was shown, per unit of its reward.
    """

    kind: ClassVar[str] = "dprm"

    mean: Float32s
    scale: Float32s
    projection: Float32s
    vectors: Float32s
    bias: Float32s
    values: Float64s
    slope: NDArray[np.float64]

    def rewards(self, groups: Groups, cluster: Ints, prompt: Ints) -> Iterator[tuple[slice, Float32s]]:
        """Rewards [b, folds, members] fp32, in log-odds, of each block of rows of features [C, d_f], with its place.

        Args:
            cluster: [C] int64.
            prompt: [C] int64, which these heads need not know.
        """
        for place, found in self.distributions(groups, cluster):
            yield place, (moments(found, self.values)[0] * self.slope).astype(np.float32)

    def variances(self, groups: Groups, cluster: Ints) -> Float64s:
        """[C, folds, E], of the graders, in squared log-odds.

        Args:
            cluster: [C] int64.
        """
        blocks = [moments(found, self.values)[1] for _, found in self.distributions(groups, cluster)]
        return np.square(np.concatenate(blocks) * self.slope)

    def distributions(self, groups: Groups, cluster: Ints) -> Iterator[tuple[slice, Float64s]]:
        """p [b, folds, E, d] fp64 of each block of rows, with its place."""
        flat = self.vectors.reshape(len(self.vectors), -1)
        for place, block in float32_blocks(groups):
            inputs = ((block - self.mean) * self.scale) @ self.projection
            logits = (inputs @ flat).reshape(-1, *self.bias.shape[1:]) + self.bias[cluster[place]]
            shape = len(block), *self.slope.shape, len(self.values)
            yield place, softmax(logits.astype(np.float64), axis=-1).reshape(shape)

    def wins(self, groups: Groups, cluster: Ints, first: Ints, second: Ints) -> Float64s:
        """P [pairs, folds, E] that the first of two responses would be graded higher; equal grades count half.

        Args:
            cluster: [C] int64.
            first, second: [pairs] int64, rows of the features [C, d_f].
        """
        every = np.empty((len(cluster), *self.slope.shape, len(self.values)), dtype=np.float32)
        for place, found in self.distributions(groups, cluster):
            every[place] = found
        return wins(every[first], every[second])


def moments(distribution: Float64s, values: Float64s) -> tuple[Float64s, Float64s]:
    """Mean and standard deviation [...] of the values [d] under distributions [..., d]."""
    mean = distribution @ values
    variance = (distribution * np.square(values - mean[..., None])).sum(axis=-1)
    return mean, np.sqrt(variance)


def wins(first: NDArray[np.floating], second: NDArray[np.floating]) -> Float64s:
    """Σ_{i>j} p_i q_j + ½ Σ_i p_i q_i [...], of distributions [..., d] over ordered categories.

    Cut to [0, 1], because distributions in float32 sum to a little more than 1 at times.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    below = np.cumsum(second, axis=-1) - second
    return np.clip((first * (below + second / 2)).sum(axis=-1), 0.0, 1.0)


def log_odds(win: Float64s) -> Float64s:
    """log p/(1 - p), finite: of distributions in float32 nothing is known of what is nearer to 0 or 1 than 2⁻²³."""
    return np.asarray(logit(np.clip(win, SUREST, 1 - SUREST)))
