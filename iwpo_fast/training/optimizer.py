"""What AdamW keeps of each parameter: its moments, of 32 or 8 bits."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter

from iwpo_fast.config import OptimConfig
from iwpo_fast.optimisation import SMALLEST_8BIT

BLOCK_8BIT = 256
"""Entries of a moment of 8 bits that share a scale."""


def begin_state(optimizer: torch.optim.Optimizer, parameter: Parameter) -> None:
    """Zeros in `optimizer.state` where the optimiser will keep what it knows of the parameter."""
    if isinstance(optimizer, torch.optim.AdamW):
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
        return
    for g, group in enumerate(optimizer.param_groups):
        for p, candidate in enumerate(group["params"]):
            if candidate is parameter:
                cast(Any, optimizer).init_state(group, parameter, g, p)


def moments_bytes(parameter: Tensor, config: OptimConfig) -> int:
    """Bytes of both moments of a parameter, or of the part of one that is on this process."""
    if config.name == "adamw" or parameter.numel() < SMALLEST_8BIT:
        return 2 * parameter.numel() * torch.float32.itemsize
    blocks = math.ceil(parameter.numel() / BLOCK_8BIT)
    return 2 * (parameter.numel() + blocks * torch.float32.itemsize)
