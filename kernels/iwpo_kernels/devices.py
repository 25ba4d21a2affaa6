"""Which tensors the Triton kernels serve, and what holds while they are served."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from iwpo_kernels.exact_products import exact_products

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
    """Inside, Triton launches on `device`, and neither autocast nor the process's switches make products coarser."""
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with current, torch.autocast(device.type, enabled=False), exact_products(device):
        yield


def checks_labels(device: torch.device) -> bool:
    """True where index ranges are read back and checked: always on a CPU, under IWPO_DEBUG=1 on a GPU."""
    return device.type == "cpu" or os.environ.get("IWPO_DEBUG", "0") == "1"
