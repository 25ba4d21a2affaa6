"""Processes that compute slices of one batch (context parallelism), and what they send to one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# PyTorch 2.13 has new names, and warns of those that 2.11 has.
_ALL_GATHER: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_REDUCE_SCATTER: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True)
class ContextGroup:
    """`size` processes with one batch, of which this is number `rank`.

    The collectives of PyTorch that autograd knows are not used, because their names change from release to release,
    and because the backward pass of a sum over processes is theirs only where each of them has a loss of its own.
    """

    rank: int
    size: int
    group: dist.ProcessGroup

    def gathered(self, values: Tensor) -> Tensor:
        """[L, ...] of each process to [size · L, ...], by rank; the gradients of all processes are summed."""
        return _Gathered.apply(values, self)

    def summed(self, values: Tensor) -> Tensor:
        """The sum over the processes.

        All of them compute the same loss from it, so its gradient is that of each summand as it is: a sum of the
        gradients would count the loss `size` times.
        """
        return _Summed.apply(values, self)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, context: ContextGroup) -> Tensor:
        ctx.context = context
        out = values.new_empty(context.size * len(values), *values.shape[1:])
        _ALL_GATHER(out, values.contiguous(), group=context.group)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (whole,), context = gradients, ctx.context
        own = whole.new_empty(len(whole) // context.size, *whole.shape[1:])
        _REDUCE_SCATTER(own, whole.contiguous(), group=context.group)
        return own, None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, context: ContextGroup) -> Tensor:
        total = values.clone()
        dist.all_reduce(total, group=context.group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
