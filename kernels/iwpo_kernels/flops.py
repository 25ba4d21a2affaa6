"""`import iwpo_kernels.flops` makes `torch.utils.flop_counter.FlopCounterMode` count the operators' matrix products.

They are N · V · H multiply-adds each. All N labels count, because shapes do not tell which of them are -100 and cost
nothing. A module of its own, because PyTorch's counter imports Triton, for which users on a CPU need not wait.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

import iwpo_kernels.linear_token_logps  # noqa: F401  registers the operators

Shape = torch.Size


def _product(labels: Shape, weight: Shape) -> int:
    vocab, features = weight
    return 2 * labels[0] * vocab * features


@register_flop_formula(torch.ops.iwpo_kernels.linear_token_logps)
def _forward(hidden: Shape, weight: Shape, labels: Shape, *options: Any, **_: Any) -> int:
    """Logits, and the mean row of the head where the hidden states need a gradient."""
    jacobian = options[7]
    return _product(labels, weight) * (2 if jacobian else 1)


@register_flop_formula(torch.ops.iwpo_kernels.linear_token_logps_head_gradient)
def _head_gradient(grad: Shape, hidden: Shape, weight: Shape, labels: Shape, *options: Any, **_: Any) -> int:
    """The gradient, and the logits once more where their exponentials were not kept."""
    masses = options[2]
    return _product(labels, weight) * (1 if masses[0] else 2)
