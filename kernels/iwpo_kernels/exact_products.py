"""Matrix products that no user's switch makes coarser."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_holders: Counter[str] = Counter()
_before: dict[str, dict[str, Any]] = {}

# Sums of 16-bit products in 16 bits: the first also makes PyTorch refuse products with a float32 result.
SHORT_SUMS = (
    "allow_fp16_accumulation",
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
)


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Inside, products on `device` are neither of TF32 nor summed in 16 bits, whatever the process has asked for.

    Those are settings of the whole process, and a backward pass has a thread per GPU: the first to enter changes the
    settings and the last to leave restores them. For float32, what is set is `fp32_precision`, which products go by;
    the older `allow_tf32` and `set_float32_matmul_precision` write it too, and refuse to be read where it was set
    without them.
    """
    switches = _switches(device)
    with _lock:
        if not _holders[device.type]:
            _before[device.type] = {"fp32_precision": _stored(switches)} | {
                name: getattr(switches, name) for name in _short_sums(device)
            }
            switches.fp32_precision = "ieee"
            for name in _short_sums(device):
                setattr(switches, name, False)
        _holders[device.type] += 1
    try:
        yield
    finally:
        with _lock:
            _holders[device.type] -= 1
            if not _holders[device.type]:
                for name, value in _before.pop(device.type).items():
                    setattr(switches, name, value)


def _switches(device: torch.device) -> Any:
    backends: Any = torch.backends
    return backends.cuda.matmul if device.type == "cuda" else backends.mkldnn.matmul


def _short_sums(device: torch.device) -> tuple[str, ...]:
    return SHORT_SUMS if device.type == "cuda" else ()


def _stored(switches: Any) -> str:
    """What to restore: "none" if that has the same effect, as a setting inherited from above should stay inherited."""
    effective: str = switches.fp32_precision
    switches.fp32_precision = "none"
    return "none" if switches.fp32_precision == effective else effective
