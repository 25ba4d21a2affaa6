"""AdamW over named parameters, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_

from iwpo_fast.config import OptimConfig
from iwpo_fast.world import whole


def make_optimizer(parameters: Mapping[str, Parameter], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, as norms and biases have no scale to decay."""
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = all(p.is_cuda for p in parameters.values())
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=fused,
    )


def clip_gradients(parameters: Iterable[Parameter], max_norm: float | None) -> Tensor:
    """Scale the gradients down to the given global norm, if any; returns the norm [] that they had."""
    return whole(clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm))


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate of optimiser step `step`, counted from 0, out of `steps`."""
    warmup = math.ceil(config.warmup_fraction * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    remaining = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[config.schedule]
    return config.lr * (config.min_lr_fraction + (1.0 - config.min_lr_fraction) * remaining)
