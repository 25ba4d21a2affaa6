"""How far one distribution over categories is from another, by what moving its mass costs."""

from __future__ import annotations

import torch
from torch import Tensor

BLUR = 0.01
"""Entropy of a plan counts as much as this share of the largest cost."""
ITERATIONS = 300


def on_a_line(target: Tensor, found: Tensor, values: Tensor) -> Tensor:
    """W_1, Σ_i |F_p(i) - F_q(i)| (w_{i+1} - w_i): the least cost in closed form where it is the distance of values.

    Args:
        target, found: p and q, [..., d] each, that sum to 1.
        values: w [d], ascending.

    Returns:
        [...], in the unit of the values.
    """
    apart = (target - found).cumsum(-1)[..., :-1].abs()
    return (apart * values.diff()).sum(-1)


def by_sinkhorn(
    target: Tensor, found: Tensor, cost: Tensor, *, blur: float = BLUR, iterations: int = ITERATIONS
) -> Tensor:
    """The least cost for any cost matrix, with entropy so that it is smooth: S(p, q) - ½ S(p, p) - ½ S(q, q).

    Sinkhorn's iterations in log space (Cuturi, arXiv 1306.0895), without their bias (Feydy et al., arXiv 1810.08278),
    so that it is 0 where p = q. Gradients are those of the dual at its potentials, which are constants.

    Args:
        target, found: p and q, [..., d] each, above 0, that sum to 1.
        cost: [d, d], symmetric, 0 on the diagonal.
        blur: weight of the entropy, as a share of the largest cost.

    Returns:
        [...], in the unit of the cost.
    """
    entropy = blur * float(cost.max())

    def dual(left: Tensor, right: Tensor) -> Tensor:
        f, g = _potentials(left.detach().log(), right.detach().log(), cost, entropy, iterations)
        return (left * f).sum(-1) + (right * g).sum(-1)

    return dual(target, found) - (dual(target, target) + dual(found, found)) / 2


@torch.no_grad()
def _potentials(left: Tensor, right: Tensor, cost: Tensor, entropy: float, iterations: int) -> tuple[Tensor, Tensor]:
    """f and g [..., d], from log-probabilities [..., d]."""
    f, g = torch.zeros_like(left), torch.zeros_like(right)
    for _ in range(iterations):
        f = -entropy * torch.logsumexp((g[..., None, :] - cost) / entropy + right[..., None, :], -1)
        g = -entropy * torch.logsumexp((f[..., :, None] - cost) / entropy + left[..., :, None], -2)
    return f, g
