"""Heads that see more than linear ones: these, and a small network on the same features beside each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.rewards.blocks import Float32s, Floats, Groups, Ints, float32_blocks
from iwpo_fast.rewards.linear_heads import HeadsBesideLinear, LinearHeads

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class NetworkHeads(HeadsBesideLinear):
    """r(x, y) = s (α r_linear(x, y) + uᵀ relu(Wᵀ Pᵀ f(x, y) + b_z)), for every member of an ensemble in every fold.

    Only the abstract of IWPO is public, and it says nothing of networks: this head is the project's own.

    Attributes:
        linear: the linear heads r_linear, in log-odds.
        projection: P [d, p] fp32, onto the directions in which standardised features f vary most.
        hidden: W [p, folds · members, h] fp32.
        bias: b [G, folds · members, h] fp32, of each cluster.
        output: u [folds · members, h] fp32.
        share: α [folds, members] fp32.
        slope: s [folds, members] fp64, log-odds of the pairs that a head was shown, per unit of its reward.
    """

    kind: ClassVar[str] = "mlp"

    linear: LinearHeads
    projection: Float32s
    hidden: Float32s
    bias: Float32s
    output: Float32s
    share: Float32s
    slope: NDArray[np.float64]

    def rewards(self, groups: Groups, cluster: Ints, prompt: Ints) -> Iterator[tuple[slice, Float32s]]:
        """Rewards [b, folds, members] fp32, in log-odds, of each block of rows of the features [C, d], with its place.

        Args:
            cluster: [C] int64.
            prompt: [C] int64, which these heads need not know.
        """
        slope = self.slope.astype(np.float32)
        blocks = zip(self.linear.rewards(groups, cluster, prompt), float32_blocks(groups), strict=True)
        for (place, linear), (_, block) in blocks:
            inputs = ((block - self.linear.mean) * self.linear.scale) @ self.projection
            network = self._network(inputs, cluster[place]).reshape(linear.shape)
            yield place, slope * (self.share * linear + network)

    def _network(self, inputs: Floats, cluster: Ints) -> Float32s:
        """[b, folds · members], of projected features [b, p]."""
        found = np.empty((len(inputs), len(self.output)), dtype=np.float32)
        weight = self.hidden.reshape(len(self.hidden), -1)
        for start in range(0, len(inputs), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            hidden = (inputs[some] @ weight).reshape(-1, *self.output.shape) + self.bias[cluster[some]]
            found[some] = np.einsum("bmh,mh->bm", np.maximum(hidden, 0), self.output)
        return found
