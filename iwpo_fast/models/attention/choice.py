"""Which backends there are, and which of them a run can use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from iwpo_fast.models.attention.by_length import eager_by_length, sdpa_by_length
from iwpo_fast.models.attention.flash import PACKAGES, flash_attn_2, flash_attn_3, varlen, why_not_installed
from iwpo_fast.models.attention.metadata import BY_LENGTH, AttentionMetadata, Options

Backend = Callable[[Tensor, Tensor, Tensor, AttentionMetadata, Options], Tensor]

BACKENDS: dict[str, Backend] = {
    "flash_attn_3": flash_attn_3,
    "flash_attn_2": flash_attn_2,
    "varlen": varlen,
    "sdpa_by_length": sdpa_by_length,
    "eager_by_length": eager_by_length,
}
"""The fastest first."""


def take_first(
    asked: str, device: torch.device, dtype: torch.dtype, run: Callable[[str, str], str | None]
) -> str | None:
    """Have the first backend run that is there and will do, the fastest first; or the one that is asked for.

    Args:
        asked: `model.attention`, perhaps `auto`.
        run: runs a backend, given its name and why it is taken; gives back why it will not do, or None.

    Returns:
        Why the last one will not do; None if one runs.
    """
    passed_over: list[str] = []
    obstacle = None
    for backend in suited(device, dtype) if asked == "auto" else [asked]:
        obstacle = why_absent(backend) or run(backend, ", ".join(passed_over) if asked == "auto" else "asked for")
        if obstacle is None:
            return None
        passed_over.append(f"not {backend}: {obstacle}")
    return obstacle


def suited(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Backends made for `dtype` on `device`, the fastest first; they may not be installed, or not suit the model."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return list(BY_LENGTH)
    return [name for name in BACKENDS if name != "flash_attn_3" or _is_hopper(device)]


def backends(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Those of `suited` that are there."""
    return [name for name in suited(device, dtype) if why_absent(name) is None]


def why_absent(backend: str) -> str | None:
    """Why a backend is not there, or None."""
    return why_not_installed(backend) if backend in PACKAGES else None


def check_backend(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ValueError if `model.attention` names a backend that cannot compute in `dtype` on `device`."""
    usable = suited(device, dtype)
    if backend not in usable:
        made_for = "NVIDIA GPUs of the Hopper generation" if backend == "flash_attn_3" else "CUDA and ROCm GPUs"
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        raise ValueError(
            f"model.attention is {backend}, which is made for half precision on {made_for}, but this run computes in "
            f"{str(dtype).removeprefix('torch.')} on {name}: set auto, or one of {', '.join(usable)}."
        )
    if absent := why_absent(backend):
        raise ValueError(f"model.attention is {backend} but {absent}: install it, or set auto.")


def _is_hopper(device: torch.device) -> bool:
    """Elsewhere the kernels of version 3 are missing from most builds, and some of those end the process."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device)[0] == 9
