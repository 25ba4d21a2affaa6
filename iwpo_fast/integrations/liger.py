"""This library's fused loss where code calls Liger's: `patch_liger()` is the only line that changes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from iwpo_kernels import PaddedLinearPreferenceLoss

NAME = "LigerFusedLinearDPOLoss"


def patch_liger() -> None:
    """Make `liger_kernel.chunked_loss.LigerFusedLinearDPOLoss` this library's `PaddedLinearPreferenceLoss`.

    To be called before other code imports the name. Losses and gradients are Liger's up to rounding (a test compares
    all ten loss types), except for `label_smoothing`, which acts on every loss here.

    Raises:
        ModuleNotFoundError: liger-kernel is not installed.
    """
    for module in _places():
        if getattr(module, NAME) is not PaddedLinearPreferenceLoss:
            _THEIRS[module.__name__] = getattr(module, NAME)
            setattr(module, NAME, PaddedLinearPreferenceLoss)


def unpatch_liger() -> None:
    """Give Liger its own loss back."""
    for module in _places():
        if module.__name__ in _THEIRS:
            setattr(module, NAME, _THEIRS.pop(module.__name__))


_THEIRS: dict[str, Any] = {}


def _places() -> tuple[ModuleType, ModuleType]:
    """The modules that define and export the name."""
    from liger_kernel import chunked_loss
    from liger_kernel.chunked_loss import dpo_loss

    return chunked_loss, dpo_loss
