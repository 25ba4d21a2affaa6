"""Whether the exponentials are worth keeping for the head's gradient."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

SAVED_SHARE_OF_MEMORY = 16


Function = TypeVar("Function", bound=Callable[..., object])


def constant_when_compiled(function: Function) -> Function:
    """`torch.compiler.assume_constant_result` without the two seconds that it takes to import the compiler."""
    function.__dict__["_dynamo_marked_constant"] = True
    return function


def saves_masses(count: int, vocab: int, element_size: int, device: torch.device) -> bool:
    """True where count · vocab elements take at most 1/16 of the device's memory.

    All of its memory, not what is free at the moment: the choice changes the last bits of the gradient,
    so it must not differ between two runs on the same machine.
    """
    fits = count * vocab * element_size <= _room(device)
    # A length on the other side compiles again; one that is not known while compiling counts as too long.
    if torch.compiler.is_compiling():
        from torch.fx.experimental.symbolic_shapes import guard_or_false  # half a second to import

        fits = guard_or_false(fits)
    _log_choice(fits, device)
    return fits


@constant_when_compiled
def _room(device: torch.device) -> int:
    return memory_of(device) // SAVED_SHARE_OF_MEMORY


@functools.cache
def memory_of(device: torch.device) -> int:
    """Bytes of all memory of a device, used or not."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@constant_when_compiled
def _log_choice(fits: bool, device: torch.device) -> None:
    """Logged once per choice and device; a compiled call logs it while it is compiled."""
    _log_once(fits, device)


@functools.cache
def _log_once(fits: bool, device: torch.device) -> None:
    share = f"1/{SAVED_SHARE_OF_MEMORY} of the memory of {device}"
    if fits:
        logger.info("linear_token_logps keeps the exponentials for the head's gradient: they fit in %s.", share)
    else:
        logger.info("linear_token_logps recomputes the exponentials for the head's gradient: they exceed %s.", share)
