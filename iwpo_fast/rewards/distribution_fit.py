"""Training of heads that give distributions over categories: all heads at once, as batched tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iwpo_fast.config import CategoryConfig
from iwpo_fast.rewards.blocks import Float32s, Float64s, Ints
from iwpo_fast.rewards.descent import MOST_ROWS, descend
from iwpo_fast.rewards.transport import by_sinkhorn, on_a_line


class Judged(NamedTuple):
    """What distributions are learnt from.

    Attributes:
        inputs: [n, p] fp32, projected features, of mean square norm p.
        cluster: [n] int64.
        targets: [n, d] fp32.
        values: [d] fp64, ascending.
        weights: [n, m], how often each head is shown each response.
    """

    inputs: Float32s
    cluster: Ints
    targets: Float32s
    values: Float64s
    weights: NDArray[np.floating]


class Distributions(NamedTuple):
    """Parameters of m heads: vectors [p, m, d] and bias [G, m, d], fp32."""

    vectors: Tensor
    bias: Tensor

    @classmethod
    def new(cls, judged: Judged) -> Distributions:
        """Heads that give every response the mean of all targets."""
        heads, frequency = judged.weights.shape[1], torch.from_numpy(judged.targets).mean(0).clamp(min=1e-6)
        clusters = int(judged.cluster.max()) + 1
        bias = frequency.log().expand(clusters, heads, -1).contiguous()
        vectors = torch.zeros(judged.inputs.shape[1], heads, len(frequency))
        return cls(vectors.requires_grad_(), bias.requires_grad_())

    def log_probs(self, inputs: Tensor, cluster: Tensor) -> Tensor:
        """[b, m, d], of responses with projected features [b, p]."""
        logits = (inputs @ self.vectors.flatten(1)).unflatten(1, self.bias.shape[1:]) + self.bias[cluster]
        return logits.log_softmax(-1)


def losses(distributions: Distributions, judged: Judged, rows: Ints, settings: CategoryConfig) -> Tensor:
    """[b, m] of some responses, [b]: what it costs to move the targets' mass to the heads', on values from 0 to 1.

    The cost is the distance of values to the power of `cost_exponent`: at 1 in closed form, else by Sinkhorn's
    iterations. With `loss: cross_entropy` it is that instead, which does not know which categories are near others.
    """
    targets = torch.from_numpy(judged.targets[rows])[:, None]
    log_probs = distributions.log_probs(torch.from_numpy(judged.inputs[rows]), torch.from_numpy(judged.cluster[rows]))
    if settings.loss == "cross_entropy":
        return -(targets * log_probs).sum(-1)
    values = torch.from_numpy((judged.values - judged.values[0]) / np.ptp(judged.values)).to(log_probs)
    if settings.cost_exponent == 1:
        return on_a_line(targets, log_probs.exp(), values)
    cost = (values[:, None] - values).abs() ** settings.cost_exponent
    return by_sinkhorn(targets.clamp(min=1e-9).expand_as(log_probs), log_probs.exp().clamp(min=1e-9), cost)


def all_losses(distributions: Distributions, judged: Judged, settings: CategoryConfig) -> Float32s:
    """[n, m]."""
    rows = np.arange(len(judged.inputs))
    with torch.no_grad():
        parts = [
            losses(distributions, judged, rows[start : start + MOST_ROWS], settings)
            for start in range(0, len(rows), MOST_ROWS)
        ]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def train(judged: Judged, settings: CategoryConfig, decay: Float64s, *, seed: int) -> Iterator[Distributions]:
    """The heads after each round of steps; whoever has seen enough of them stops.

    Each minimises its mean loss, by Adam with decoupled weight decay of its vectors.

    Args:
        decay: [m].
        seed: of the order of responses.
    """
    distributions = Distributions.new(judged)

    def loss(rows: Tensor, weights: Tensor) -> Tensor:
        return (weights * losses(distributions, judged, rows.numpy(), settings)).sum() / len(rows)

    for _ in descend(distributions, (distributions.vectors,), loss, judged.weights, decay, seed=seed):
        yield distributions
