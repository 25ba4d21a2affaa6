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

# Sums of 16-bit products in 16 bits; PyTorch refuses products with a float32 result while it is set.
SHORT_SUMS = "allow_fp16_accumulation"
# The same for partial sums. PyTorch writes each together with whether sums may be split, so it is kept with that.
SHORT_PARTS = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")


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
            _before[device.type] = {"fp32_precision": _stored(switches)} | _sums(switches, device)
            switches.fp32_precision = "ieee"
            for name, value in _sums(switches, device).items():
                setattr(switches, name, (False, value[1]) if isinstance(value, tuple) else False)
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


def _sums(switches: Any, device: torch.device) -> dict[str, Any]:
    """What stands now, as it is to be written."""
    if device.type != "cuda":
        return {}
    parts = {name: (getattr(switches, name), getattr(switches, f"{name}_split_k")) for name in SHORT_PARTS}
    return {SHORT_SUMS: getattr(switches, SHORT_SUMS)} | parts


def _stored(switches: Any) -> str:
    """What to restore: "none" if that has the same effect, because an inherited setting should stay inherited."""
    effective: str = switches.fp32_precision
    switches.fp32_precision = "none"
    return "none" if switches.fp32_precision == effective else effective
