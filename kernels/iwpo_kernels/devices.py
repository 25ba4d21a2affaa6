"""Which tensors the Triton kernels serve, and matrix products that keep 32 bits."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from iwpo_kernels.float32_products import true_float32

_interpreting = False


def runs_triton(device: torch.device) -> bool:
    """True where an operator launches Triton kernels: CUDA and ROCm, and a CPU inside `interpreted_kernels`."""
    return device.type == "cuda" or (_interpreting and device.type == "cpu")


@contextmanager
def interpreted_kernels() -> Iterator[None]:
    """Inside, operators on CPU tensors run the Triton kernels in Triton's interpreter instead of PyTorch.

    Meant for tests; `TRITON_INTERPRET=1` must have been set before Triton was imported.
    """
    global _interpreting
    assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1 before Triton is imported"
    before, _interpreting = _interpreting, True
    try:
        yield
    finally:
        _interpreting = before


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Inside, Triton launches on `device`, and neither autocast nor TF32 touches products of a chosen precision."""
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with current, torch.autocast(device.type, enabled=False), true_float32(device):
        yield


def checks_labels(device: torch.device) -> bool:
    """True where index ranges are read back and checked: always on a CPU, under IWPO_DEBUG=1 on a GPU."""
    return device.type == "cpu" or os.environ.get("IWPO_DEBUG", "0") == "1"


def mm_fp32(a: Tensor, b: Tensor) -> Tensor:
    """a [M, K] times b [K, N] as float32 [M, N], never rounded to the dtype of the inputs.

    Where the device lacks a 16-bit product with 32-bit output, the inputs are widened first.
    """
    if a.dtype == torch.float32:
        return torch.mm(a, b)
    if a.device.type == "cuda" and _has_wide_output(a.device, a.dtype):
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.float(), b.float())


@functools.cache
def _has_wide_output(device: torch.device, dtype: torch.dtype) -> bool:
    probe = torch.zeros(16, 16, device=device, dtype=dtype)
    try:
        torch.mm(probe, probe, out_dtype=torch.float32)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error):
            raise  # says nothing about the product, and what is raised is not cached
        return False
    return True
