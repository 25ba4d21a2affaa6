"""Errors that say that something does not fit into memory."""

from __future__ import annotations

import re
import sys

REFUSED = re.compile(r"can't allocate memory|not enough memory|out of memory|Cannot allocate memory", re.IGNORECASE)
"""How PyTorch says that the host refuses memory; it has no class for that."""
LARGE = re.compile(r"(?:tried|trying) to allocate ([\d.]+ ?\w+)|Unable to allocate ([\d.]+ ?\w+)", re.IGNORECASE)


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or PyTorch was refused memory, on the host or on a device."""
    torch = sys.modules.get("torch")  # which a command that has not imported it need not import for this
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(REFUSED.search(str(error)))


def out_of_memory(error: Exception) -> str:
    """The sentence about it."""
    found = LARGE.search(str(error))
    asked = f" for {found[1] or found[2]}" if found else ""
    return (
        f"the memory does not hold what the settings ask{asked}: take a smaller model (of the tiny one a lower "
        "hidden_size), model.lora, a lower data.max_length or optim.tokens_per_batch, or a larger machine."
    )
