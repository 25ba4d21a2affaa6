"""Deterministic algorithms of PyTorch for as long as a training runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Inside, PyTorch takes deterministic algorithms where it has them; afterwards all is as it was.

    It would also fill what `torch.empty` returns, which costs a write of every buffer; the kernels write all they read.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    fill: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), fill.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    fill.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        fill.fill_uninitialized_memory = before[1]
