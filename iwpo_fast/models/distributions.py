"""Distributions of the next token over the whole vocabulary, compared a few tokens at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from iwpo_kernels.wide_products import mm_fp32

LOGITS_AT_ONCE = 1 << 24
"""Logits of one distribution that are in memory at a time: 64 MiB of float32."""


class Distributions(NamedTuple):
    """softmax_v f(scale · (h Wᵀ + bias)) at N places, f(z) = softcap · tanh(z / softcap) or f(z) = z; not yet computed.

    Attributes:
        hidden: [N, H], in the type of the products.
        weight: [V, H], in that type, or float32 master weights that products round to it.
        bias: [V] or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def part(self, first: int, last: int) -> Distributions:
        """Those at places first..last."""
        return self._replace(hidden=self.hidden[first:last])

    def log_probs(self) -> Tensor:
        """[N, V] of all places, float32, or float64 where the hidden states are."""
        z = _Product.apply(self.hidden, self.weight)
        z = self.scale * (z if self.bias is None else z + self.bias)
        if self.softcap is not None:
            z = self.softcap * torch.tanh(z / self.softcap)
        return z.log_softmax(-1)


def token_kl(policy: Distributions, reference: Distributions, *, at_once: int = LOGITS_AT_ONCE) -> Tensor:
    """[N], KL(π ‖ π_ref) = Σ_v π_v (log π_v - log π_ref,v) of the next token, in nats, with the policy's gradient.

    The sum is over the whole vocabulary. No [N, V] is ever in memory: what a few places need is computed, and once
    more in the backward pass.

    Args:
        at_once: logits of the policy that are in memory at a time; one place is the least.
    """
    count, vocabulary = len(policy.hidden), len(policy.weight)
    step = max(1, at_once // vocabulary)
    parts = [(policy.part(i, i + step), reference.part(i, i + step)) for i in range(0, count, step)]
    found = [checkpoint(_kl, *both, use_reentrant=False, preserve_rng_state=False) for both in parts]
    return torch.cat(found) if found else policy.hidden.new_zeros(0).to(_exact(policy.hidden))


def _kl(policy: Distributions, reference: Distributions) -> Tensor:
    with torch.no_grad():
        ref = reference.log_probs()
    logps = policy.log_probs()
    return (logps.exp() * (logps - ref)).sum(-1)


class _Product(torch.autograd.Function):
    """h [N, H] times Wᵀ [H, V] as float32, whatever 16-bit type the products have; float64 stays float64."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return _mm(hidden, weight.to(hidden.dtype).t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        of_hidden, of_weight = ctx.needs_input_grad
        narrow = gradient.to(hidden.dtype)
        return (
            _mm(narrow, weight.to(hidden.dtype)).to(hidden.dtype) if of_hidden else None,
            _mm(narrow.t(), hidden).to(weight.dtype) if of_weight else None,
        )


def _mm(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b) if a.dtype == torch.float64 else mm_fp32(a, b)


def _exact(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)
