"""Training of preference embeddings: all heads at once, as batched tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from iwpo_fast.rewards.blocks import Float32s, Float64s, Ints
from iwpo_fast.rewards.descent import MOST_ROWS, descend

FIRST_SIZE = 0.1
"""Standard deviation of what features first add to a coordinate of an embedding; at 0 it would be a saddle."""


class Compared(NamedTuple):
    """What embeddings learn from.

    Attributes:
        inputs: [n, p] fp32, projected features, of mean square norm p.
        cluster: [n] int64.
        sides: [P, 2] int64, rows of the chosen and of the rejected response.
        linear: [n, m] fp32, reward of the linear head beside each embedding, in log-odds.
        weights: [P, m], how often each head is shown each pair.
    """

    inputs: Float32s
    cluster: Ints
    sides: Ints
    linear: Float32s
    weights: NDArray[np.floating]


class Embeddings(NamedTuple):
    """Parameters of m heads: vectors [p, m, 2k], bias [G, m, 2k], gate [G, m, k], share [m], all fp32."""

    vectors: Tensor
    bias: Tensor
    gate: Tensor
    share: Tensor

    @classmethod
    def new(cls, inputs: int, clusters: int, heads: int, dimension: int, seed: int) -> Embeddings:
        """Embeddings near v = (r_linear, 1, 0, ...), whose scores are the gaps of the linear heads."""
        generator = torch.Generator().manual_seed(seed)
        # The same first vectors for each head, so that heads differ by what they are shown alone.
        vectors = torch.randn(inputs, 1, dimension, generator=generator).expand(-1, heads, -1)
        bias = torch.zeros(clusters, heads, dimension)
        bias[..., 1] = 1
        gate = torch.zeros(clusters, heads, dimension // 2)
        parts = vectors * (FIRST_SIZE / math.sqrt(inputs)), bias, gate, torch.ones(heads)
        return cls(*(part.contiguous().requires_grad_() for part in parts))

    def of(self, inputs: Tensor, cluster: Tensor, linear: Tensor) -> Tensor:
        """v [..., b, m, 2k], of responses with projected features [..., b, p] and linear rewards [..., b, m]."""
        found = (inputs @ self.vectors.flatten(1)).unflatten(-1, self.bias.shape[1:]) + self.bias[cluster]
        first = torch.nn.functional.pad((self.share * linear)[..., None], (0, found.shape[-1] - 1))
        return found + first

    def scores(self, compared: Compared, rows: Ints) -> Tensor:
        """[b, m], of the chosen over the rejected response of some pairs, [b]."""
        both = compared.sides[rows].T.ravel()
        cluster = torch.from_numpy(compared.cluster[both])
        parts = torch.from_numpy(compared.inputs[both]), cluster, torch.from_numpy(compared.linear[both])
        left, right = self.of(*parts).unflatten(0, (2, -1))
        return self.compare(left, right, cluster[: len(rows)])

    def compare(self, left: Tensor, right: Tensor, cluster: Tensor) -> Tensor:
        """[b, m], scores of embeddings [b, m, 2k] over others, of prompts in clusters [b]."""
        stretch = (self.gate.shape[-1] * self.gate.softmax(-1)).square()[cluster]
        turned = left[..., ::2] * right[..., 1::2] - left[..., 1::2] * right[..., ::2]
        return (stretch * turned).sum(-1)

    def all_scores(self, compared: Compared) -> Float32s:
        """[P, m]."""
        rows = np.arange(len(compared.sides))
        with torch.no_grad():
            parts = [self.scores(compared, rows[start : start + MOST_ROWS]) for start in range(0, len(rows), MOST_ROWS)]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def train(compared: Compared, dimension: int, decay: Float64s, *, seed: int) -> Iterator[Embeddings]:
    """The embeddings after each round of steps; whoever has seen enough of them stops.

    Each minimises mean softplus(-s(y_w > y_l)), by Adam with decoupled weight decay of its vectors (paper, A.1, with
    hard labels; the temperature is the slope that a head gets afterwards).

    Args:
        dimension: 2k.
        decay: [m].
        seed: of the first vectors and of the order of pairs.
    """
    clusters, heads = int(compared.cluster.max()) + 1, compared.weights.shape[1]
    embeddings = Embeddings.new(compared.inputs.shape[1], clusters, heads, dimension, seed)

    def loss(rows: Tensor, weights: Tensor) -> Tensor:
        return total_loss(embeddings, compared, rows, weights)

    for _ in descend(embeddings, (embeddings.vectors,), loss, compared.weights, decay, seed=seed):
        yield embeddings


def total_loss(embeddings: Embeddings, compared: Compared, rows: Tensor, weights: Tensor) -> Tensor:
    """Sum over the heads of their mean losses over pairs [b], weighted [b, m]; no head has a part in another's."""
    return (weights * softplus(-embeddings.scores(compared, rows.numpy()))).sum() / len(rows)
