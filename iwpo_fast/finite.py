"""No number that is not finite reaches an optimiser or a saved model, and the host waits for none of these checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def backward(loss: Tensor) -> None:
    """Add the gradients of a loss []; where it is not finite, they are NaN, so that `step_if_finite` sees it.

    Gradients are summed over all ranks, and so is a NaN among them: all ranks learn of the loss of one.
    """
    loss.backward(torch.ones_like(loss).masked_fill(~loss.detach().isfinite(), torch.nan))


def step_if_finite(optimizer: torch.optim.Optimizer, grad_norm: Tensor) -> None:
    """Have the optimiser step, unless the gradient's norm is not finite, now or before: then nothing changes.

    Whoever reads the norms says what has happened. Fused AdamW takes the decision from the device, as it does under a
    `GradScaler`, and the host does not wait. For an optimiser that cannot, the host waits for the norm; those of
    bitsandbytes wait for the device after each parameter as it is.

    Args:
        grad_norm: [], of the gradients of all ranks, equal on all of them.
    """
    guarded: Any = optimizer
    bad = ~grad_norm.detach().isfinite()
    before = getattr(optimizer, "stopped", None)
    guarded.stopped = bad if before is None else before | bad
    if getattr(optimizer, "_step_supports_amp_scaling", False):  # as `torch.amp.GradScaler` asks
        guarded.found_inf = guarded.stopped.float()
        optimizer.step()
    elif not guarded.stopped:
        optimizer.step()


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors of floats that hold a number that is not finite, in the part that this process has.

    Waits for the device once. Makes no tensor of their size beside them, as `isfinite` would; extremes keep NaN.
    """
    parts = {name: local_part(tensor.detach()) for name, tensor in tensors.items()}
    parts = {name: part for name, part in parts.items() if part.is_floating_point() and part.numel()}
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for name, part in parts.items():
        by_device.setdefault(part.device, {})[name] = torch.stack(torch.aminmax(part)).isfinite().all()
    bad = {
        name
        for flags in by_device.values()
        for name, fine in zip(flags, torch.stack(list(flags.values())).tolist(), strict=True)
        if not fine
    }
    return [name for name in parts if name in bad]


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that may be spread over several; it shares its memory."""
    return cast(DTensor, tensor).to_local() if isinstance(tensor, DTensor) else tensor
