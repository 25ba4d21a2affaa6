"""Dataclasses of tensors that move to a device as one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


class TensorDataclass:
    """Base class of dataclasses whose tensors move together, also those in nested dataclasses of this kind."""

    def pin_memory(self) -> Self:
        """A copy in page-locked memory, from which a GPU copies while it computes and the host goes on."""
        return self._moved(lambda part: part.pin_memory())

    def to(self, device: torch.device, *, non_blocking: bool = True) -> Self:
        """A copy on `device`; the host does not wait for copies from page-locked memory."""
        return self._moved(lambda part: part.to(device, non_blocking=non_blocking))

    def _moved(self, move: Callable[[Any], Any]) -> Self:
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        moved = {name: move(part) for name, part in parts.items() if isinstance(part, Tensor | TensorDataclass)}
        return replace(self, **moved)  # type: ignore[type-var]


def copied_to(device: torch.device, values: np.ndarray) -> Tensor:
    """The array on `device`; on a GPU by way of page-locked memory, so that the host need not wait."""
    tensor = torch.from_numpy(values)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
