"""What kind of GPU a device is."""

from __future__ import annotations

import functools

import torch


@functools.cache
def architecture(device: torch.device) -> str:
    """As compilers name it: "sm_90", "gfx942"; "cpu" for Triton's interpreter."""
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"
