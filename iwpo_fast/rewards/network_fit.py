"""Training of the small networks beside linear heads: all heads at once, as batched tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from iwpo_fast.rewards.blocks import Float32s, Ints
from iwpo_fast.rewards.descent import MOST_ROWS, descend


class Examples(NamedTuple):
    """What networks learn from.

    Attributes:
        inputs: [n, p] fp32, projected features, of mean square norm p.
        cluster: [n] int64.
        sides: [P, 2] int64, rows of the chosen and of the rejected response.
        offset: [P, m] fp32, gap of the linear head beside each network, in log-odds.
        weights: [P, m], how often each head is shown each pair.
        centring: penalty on the squared sum of the rewards of a pair.
    """

    inputs: Float32s
    cluster: Ints
    sides: Ints
    offset: Float32s
    weights: NDArray[np.floating]
    centring: float


class Networks(NamedTuple):
    """Parameters of m networks: hidden [p, m, h], bias [G, m, h], output [m, h], share [m], all fp32."""

    hidden: Tensor
    bias: Tensor
    output: Tensor
    share: Tensor

    @classmethod
    def new(cls, inputs: int, clusters: int, heads: int, width: int, seed: int) -> Networks:
        """Networks that add nothing to their linear heads yet."""
        generator = torch.Generator().manual_seed(seed)
        # The same first weights for each head, so that heads differ by what they are shown alone.
        hidden = torch.randn(inputs, 1, width, generator=generator).expand(-1, heads, -1) / math.sqrt(inputs)
        parts = hidden, torch.zeros(clusters, heads, width), torch.zeros(heads, width), torch.ones(heads)
        return cls(*(part.contiguous().requires_grad_() for part in parts))

    def rewards(self, inputs: Tensor, cluster: Tensor) -> Tensor:
        """What the networks add, [..., b, m], to responses with projected features [..., b, p]."""
        hidden = (inputs @ self.hidden.flatten(1)).unflatten(-1, self.output.shape) + self.bias[cluster]
        return (hidden.relu_() * self.output).sum(-1)

    def gaps(self, examples: Examples) -> Float32s:
        """Gap [P, m] of every pair, with the linear head's."""
        rows, found = torch.from_numpy(examples.sides), np.empty(examples.offset.shape, dtype=np.float32)
        inputs, cluster = torch.from_numpy(examples.inputs), torch.from_numpy(examples.cluster)
        with torch.no_grad():
            for start in range(0, len(rows), MOST_ROWS):
                some = slice(start, start + MOST_ROWS)
                both = rows[some].T.flatten()
                chosen, rejected = self.rewards(inputs[both], cluster[both]).unflatten(0, (2, -1))
                linear = self.share * torch.from_numpy(examples.offset[some])
                found[some] = (linear + chosen - rejected).numpy()
        return found


def train(examples: Examples, width: int, decay: NDArray[np.floating], *, seed: int) -> Iterator[Networks]:
    """The networks after each round of steps; whoever has seen enough of them stops.

    Each minimises, by Adam with decoupled weight decay,

        mean softplus(-(α Δ_linear + g_w - g_l)) + c mean (g_w + g_l)²

    Args:
        decay: [m], of the matrices of each network.
        seed: of the first weights and of the order of pairs.
    """
    heads = examples.weights.shape[1]
    clusters = int(examples.cluster.max()) + 1
    networks = Networks.new(examples.inputs.shape[1], clusters, heads, width, seed)

    def loss(rows: Tensor, weights: Tensor) -> Tensor:
        return total_loss(networks, examples, weights, rows)

    for _ in descend(networks, (networks.hidden, networks.output), loss, examples.weights, decay, seed=seed):
        yield networks


def total_loss(networks: Networks, examples: Examples, weights: Tensor, rows: Tensor) -> Tensor:
    """Sum over the heads of their mean losses over pairs [b]; no head has a part in another's."""
    both = examples.sides[rows.numpy()].T.ravel()
    inputs, cluster = torch.from_numpy(examples.inputs[both]), torch.from_numpy(examples.cluster[both])
    chosen, rejected = networks.rewards(inputs, cluster).unflatten(0, (2, -1))
    gap = networks.share * torch.from_numpy(examples.offset[rows.numpy()]) + chosen - rejected
    losses = softplus(-gap) + examples.centring * (chosen + rejected).square()
    return (weights * losses).sum() / len(rows)
