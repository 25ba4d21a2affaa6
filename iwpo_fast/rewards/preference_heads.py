"""Heads that say which of two responses is preferred, though no reward of each alone could: preference embeddings.

GPM, Zhang et al., arXiv 2410.02197. The embedding here is affine in features and begins as the reward of a linear head,
and its eigenvalues depend on the cluster of a prompt, which is all that heads know of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import softmax

from iwpo_fast.rewards.blocks import Float32s, Groups, Ints, float32_blocks
from iwpo_fast.rewards.linear_heads import HeadsBesideLinear, LinearHeads


@dataclass(frozen=True)
class PreferenceHeads(HeadsBesideLinear):
    """s(y > y' | x) = t v(y)ᵀ D R D v(y'), for every member of an ensemble in every fold.

    R turns each of k planes by a quarter, and D stretches plane l by λ_l(z) = k softmax(g_z)_l, so that with
    v = (a_1, b_1, ..., a_k, b_k)

        s = t Σ_l λ_l² (a_l b'_l - b_l a'_l),      v = Wᵀ Pᵀ f + c_z,      and a_1 has α r_linear beside

    The reward of a response is its mean score over the K responses of its prompt, itself among them (paper, eq. 5.2).
    With K = 2 the rewards of the two differ by s.

    Attributes:
        linear: the linear heads r_linear, in log-odds.
        projection: P [d, p] fp32, onto the directions in which standardised features f vary most.
        vectors: W [p, folds · members, 2k] fp32.
        bias: c [G, folds · members, 2k] fp32, of each cluster.
        gate: g [G, folds · members, k] fp32.
        share: α [folds, members] fp32.
        slope: t [folds, members] fp64, log-odds of the pairs that a head was shown, per unit of its score.
    """

    kind: ClassVar[str] = "gpm"

    linear: LinearHeads
    projection: Float32s
    vectors: Float32s
    bias: Float32s
    gate: Float32s
    share: Float32s
    slope: NDArray[np.float64]

    def rewards(self, groups: Groups, cluster: Ints, prompt: Ints) -> Iterator[tuple[slice, Float32s]]:
        """Mean scores [b, folds, members] fp32 of each block of rows of the features [C, d], with its place.

        The embeddings of all rows are held at once: 8k bytes for each head and row.

        Args:
            cluster, prompt: [C] int64.
        """
        own = self._embeddings(groups, cluster)
        yield slice(0, len(own)), self.mean_scores(own, cluster, prompt)

    def mean_scores(self, embeddings: Float32s, cluster: Ints, prompt: Ints) -> Float32s:
        """[C, folds, members], of the embeddings [C, folds · members, 2k] of all responses to the prompts [C]."""
        return self._scores(embeddings, mean_of_prompt(embeddings, prompt)[prompt], cluster)

    def scores(self, groups: Groups, cluster: Ints, first: Ints, second: Ints) -> Float32s:
        """Scores [P, folds, members] of pairs of rows of the features [C, d], above 0 where the first is preferred.

        Args:
            cluster: [C] int64.
            first, second: [P] int64, rows of one prompt.
        """
        own = self._embeddings(groups, cluster)
        return self._scores(own[first], own[second], cluster[first])

    def _embeddings(self, groups: Groups, cluster: Ints) -> Float32s:
        """[C, folds · members, 2k]."""
        found = np.empty((len(cluster), *self.bias.shape[1:]), dtype=np.float32)
        flat = self.vectors.reshape(len(self.vectors), -1)
        blocks = zip(self.linear.rewards(groups, cluster, cluster), float32_blocks(groups), strict=True)
        for (place, linear), (_, block) in blocks:
            inputs = ((block - self.linear.mean) * self.linear.scale) @ self.projection
            found[place] = (inputs @ flat).reshape(-1, *self.bias.shape[1:]) + self.bias[cluster[place]]
            found[place, :, 0] += (self.share * linear).reshape(len(linear), -1)
        return found

    def _scores(self, left: Float32s, right: Float32s, cluster: Ints) -> Float32s:
        stretch = np.square(self.gate.shape[-1] * softmax(self.gate, axis=-1))[cluster]
        turned = left[..., ::2] * right[..., 1::2] - left[..., 1::2] * right[..., ::2]
        found = (stretch * turned).sum(axis=-1).reshape(-1, self.folds, self.members)
        return found * self.slope.astype(np.float32)


def mean_of_prompt(embeddings: Float32s, prompt: Ints) -> Float32s:
    """[M, m, 2k], over the responses [C, m, 2k] of each prompt, [C]."""
    count = np.bincount(prompt)
    share = (1 / np.maximum(count, 1)).astype(np.float32)[prompt]
    average = csr_array((share, (prompt, np.arange(len(prompt)))), shape=(len(count), len(prompt)))
    return (average @ embeddings.reshape(len(prompt), -1)).reshape(-1, *embeddings.shape[1:])
