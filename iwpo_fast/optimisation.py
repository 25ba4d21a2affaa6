"""AdamW over named parameters, what it keeps of them, the learning rate of each step, clipping, and a plain loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_

from iwpo_fast.config import OptimConfig
from iwpo_fast.extras import check_installed
from iwpo_fast.finite import local_part, not_finite, step_if_finite
from iwpo_fast.progress import progress
from iwpo_fast.world import full_tensor

SMALLEST_8BIT = 4096
"""Parameters with fewer entries keep moments of 32 bits."""

BLOCK_8BIT = 256
"""Entries of a moment of 8 bits that share a scale."""

T = TypeVar("T")


def fit(
    parameters: Mapping[str, Parameter],
    config: OptimConfig,
    steps: int,
    accumulate: Callable[[int], T],
    *,
    what: str,
    rate: str = "its learning rate",
) -> list[T]:
    """Take optimiser steps on the gradients that `accumulate` leaves, and list what it returns for each step.

    This is for trainings without checkpoints, logs and ranks; `training.loop` has those.

    Args:
        accumulate: leaves the gradient of a step, counted from 0, in `.grad`.
        what: names the training in the progress bar.
        rate: what its learning rate is called in messages.

    Raises:
        ValueError: a gradient or a weight is not finite; the steps from there on were not taken.
    """
    optimizer = make_optimizer(parameters, config)
    results, norms = [], []
    with progress(what, steps, "step") as bar:
        for step in range(steps):
            set_learning_rate(optimizer, step, steps, config)
            results.append(accumulate(step))
            norms.append(update(optimizer, parameters.values(), config))
            bar.update()
    _check_finite(parameters, norms, what, rate)
    return results


def _check_finite(parameters: Mapping[str, Parameter], norms: Sequence[Tensor], what: str, rate: str) -> None:
    """Raise ValueError if a gradient of these norms or a weight is not finite."""
    bad_steps = [] if not norms else (~torch.stack(list(norms)).isfinite()).nonzero().flatten().tolist()
    if bad_steps:
        raise ValueError(
            f"{what}: the gradient of step {bad_steps[0] + 1} of {len(norms)} is not finite: lower {rate}."
        )
    if names := not_finite(parameters):
        raise ValueError(f"{what}: its updates made {names[0]} not finite: lower {rate} or weight decay.")


def update(optimizer: torch.optim.Optimizer, parameters: Iterable[Parameter], config: OptimConfig) -> Tensor:
    """Clip the gradients, step, and forget them; returns the norm [] that they had.

    Where the norm is not finite, this step and all later ones change nothing, as `step_if_finite` says.
    """
    parameters = list(parameters)
    grad_norm = clip_gradients(parameters, config.max_grad_norm)
    step_if_finite(optimizer, grad_norm)
    optimizer.zero_grad(set_to_none=True)
    return grad_norm


def make_optimizer(
    parameters: Mapping[str, Parameter], config: OptimConfig, own_rates: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only, because norms and biases have no scale to decay.

    Args:
        own_rates: peak learning rates of parameters, by name, that do not have that of `config`.

    Raises:
        ValueError: bitsandbytes is wanted but not installed, or would round no moment of these parameters.
    """
    rates = own_rates or {}
    groups: list[dict[str, Any]] = []
    for rate in (None, *sorted(set(rates.values()))):
        of_rate = [p for name, p in parameters.items() if rates.get(name) == rate]
        times = {} if rate is None else {"times": rate / config.lr}
        groups += [
            {"params": [p for p in of_rate if p.ndim >= 2], "weight_decay": config.weight_decay, **times},
            {"params": [p for p in of_rate if p.ndim < 2], "weight_decay": 0.0, **times},
        ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    check_installed("bitsandbytes", "optim.name is adamw_8bit", extra="8bit")
    kind = _adamw_8bit(list(parameters.values()))
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, min_8bit_size=SMALLEST_8BIT)


def _adamw_8bit(parameters: Sequence[Parameter]) -> Any:
    sharded = any(isinstance(p, DTensor) for p in parameters)
    if not any(p.numel() >= SMALLEST_8BIT and (rows_are_blocks(p) or not sharded) for p in parameters):
        on_shards = f" in rows of a multiple of {BLOCK_8BIT}, which parts of 8 bits need" if sharded else ""
        raise ValueError(
            f"optim.name is adamw_8bit{' and the model is sharded' if sharded else ''}, but none of what is trained "
            f"has at least {SMALLEST_8BIT} entries{on_shards}: set optim.name to adamw."
        )
    if sharded:
        from iwpo_fast.eight_bits import ShardedAdamW8bit

        return ShardedAdamW8bit
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit


def clip_gradients(parameters: Iterable[Parameter], max_norm: float | None) -> Tensor:
    """Scale the gradients down to the given global norm, if any; returns the norm [] that they had."""
    return full_tensor(clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm))


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate of optimiser step `step`, counted from 0, out of `steps`."""
    warmup = _begun(config.warmup_fraction * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    remaining = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[config.schedule]
    return config.lr * (config.min_lr_fraction + (1.0 - config.min_lr_fraction) * remaining)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, config: OptimConfig) -> float:
    """Give the optimiser its learning rate of step `step`, and return it; parameters with their own follow it."""
    rate = learning_rate(step, steps, config)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("times", 1.0)
    return rate


def seed_step(*numbers: int) -> None:
    """Seed what a step draws, such as dropout, by these numbers alone: a training that goes on draws the same."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def optimizer_steps(optim: OptimConfig, pairs: int) -> tuple[int, int]:
    """Optimiser steps of one epoch over so many pairs, and of the whole training."""
    steps_per_epoch = math.ceil(pairs / optim.pairs_per_step)
    steps = max(1, _begun(optim.epochs * steps_per_epoch))
    return steps_per_epoch, steps if optim.max_steps is None else min(steps, optim.max_steps)


def _begun(steps: float) -> int:
    """Whole steps that so many begin; what rounding adds to a product, as to 1.1 · 100, begins none."""
    return math.ceil(round(steps, 6))


def begin_state(optimizer: torch.optim.Optimizer, parameter: Parameter) -> None:
    """Put zeros into `optimizer.state` where the optimiser will keep the moments of the parameter."""
    if isinstance(optimizer, torch.optim.AdamW):
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
        return
    for g, group in enumerate(optimizer.param_groups):
        for p, candidate in enumerate(group["params"]):
            if candidate is parameter:
                cast(Any, optimizer).init_state(group, parameter, g, p)


def rows_are_blocks(parameter: Tensor) -> bool:
    """Whether a row of the parameter is whole blocks of 8 bits, so that no part of it begins inside a block."""
    return math.prod(parameter.shape[1:]) % BLOCK_8BIT == 0


def moments_bytes(parameter: Tensor, config: OptimConfig, *, is_sharded: bool) -> int:
    """Bytes of both moments of a parameter, or of the part of one that is on this process."""
    held = local_part(parameter).numel()
    in_32_bits = config.name == "adamw" or parameter.numel() < SMALLEST_8BIT
    if in_32_bits or (is_sharded and not rows_are_blocks(parameter)):
        return 2 * held * torch.float32.itemsize
    return 2 * (held + math.ceil(held / BLOCK_8BIT) * torch.float32.itemsize)
