"""Peak memory of this process: resident on a CPU, allocated on a GPU."""

from __future__ import annotations

import ctypes
import gc

import torch


class PeakMemory:
    """Bytes at the peak beyond those in place when it was made.

    On a CPU the kernel's high-water mark of resident memory, which sees the scratch buffers of oneDNN and MKL.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            ctypes.CDLL(None).malloc_trim(0)
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            self._before = _status_bytes("VmRSS")

    def extra(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return _status_bytes("VmHWM") - self._before


def _status_bytes(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{field}:"))
