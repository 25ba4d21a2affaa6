"""How Triton kernels are launched."""

from __future__ import annotations

import functools

import torch


@functools.cache
def limits_registers() -> bool:
    """True on NVIDIA: AMD's compiler has no such limit. Without a limit, ptxas may spill a few bytes for occupancy."""
    return torch.cuda.is_available() and torch.version.hip is None


def launch_options(num_warps: int, max_registers: int) -> dict[str, int]:
    """Keyword arguments of a launch."""
    return {"num_warps": num_warps} | ({"maxnreg": max_registers} if limits_registers() else {})
