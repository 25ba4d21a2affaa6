"""Products of float32 matrices that no user's switch makes coarser."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_holders: Counter[str] = Counter()
_before: dict[str, str] = {}


@contextmanager
def true_float32(device: torch.device) -> Iterator[None]:
    """Inside, products of float32 on `device` are neither TF32 nor bfloat16, whatever the process has asked for.

    Those are settings of the whole process, and a backward pass has a thread per GPU: the first to enter changes the
    setting and the last to leave restores it. What is set is `fp32_precision`, which products go by; the older
    `allow_tf32` and `set_float32_matmul_precision` write it too, and refuse to be read where it was set without them.
    """
    switch = _switch(device)
    with _lock:
        if not _holders[device.type]:
            _before[device.type] = _stored(switch)
            switch.fp32_precision = "ieee"
        _holders[device.type] += 1
    try:
        yield
    finally:
        with _lock:
            _holders[device.type] -= 1
            if not _holders[device.type]:
                switch.fp32_precision = _before.pop(device.type)


def _switch(device: torch.device) -> Any:
    backends: Any = torch.backends
    return backends.cuda.matmul if device.type == "cuda" else backends.mkldnn.matmul


def _stored(switch: Any) -> str:
    """What to restore: "none" if that has the same effect, as a setting inherited from above should stay inherited."""
    effective: str = switch.fp32_precision
    switch.fp32_precision = "none"
    return "none" if switch.fp32_precision == effective else effective
