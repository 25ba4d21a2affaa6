"""What must compile: every combination of types and constants with which users launch a Triton kernel."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

TRITON_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True)
class Variant:
    """One compilation of a kernel. Each `kernels.py` lists its own in a function `variants()`.

    Attributes:
        kernel: the `triton.jit` function.
        types: type of each run-time argument as Triton spells it ("*bf16", "i32", "fp32"), by name.
        constants: value of each `constexpr` argument, by name.
        num_warps: warps per program, as at the launch.
        divisible: integer arguments that are multiples of 16; pointers always are.
        max_registers: per thread, on NVIDIA. Without a limit, ptxas may spill a few bytes for occupancy.
        num_stages: software pipelining depth, or None for the target's default.
    """

    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    divisible: frozenset[str] = frozenset()
    max_registers: int | None = None
    num_stages: int | None = None

    def __str__(self) -> str:
        constants = ", ".join(f"{name}={value}" for name, value in self.constants.items())
        types = ", ".join(f"{name}: {kind}" for name, kind in self.types.items() if kind.startswith("*"))
        aligned = ", ".join(sorted(self.divisible))
        return f"{self.kernel.__name__}[{constants}]({types}) x16({aligned}) warps={self.num_warps}"


@functools.cache
def launch_options(num_warps: int, max_registers: int) -> dict[str, int]:
    """Keyword arguments of a launch; AMD's compiler and the interpreter know no register limit."""
    is_nvidia = torch.cuda.is_available() and torch.version.hip is None
    return {"num_warps": num_warps} | ({"maxnreg": max_registers} if is_nvidia else {})
