"""The processes of one job: who I am, and sums over all of us."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """`size` processes, of which this is number `rank`, computing on `device`."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def start(cls, device: str = "auto") -> World:
        """Join the job that torchrun's environment variables describe, or be alone.

        Raises:
            ValueError: the device is unknown or not there, or one of these variables is no number.
        """
        rank, size = _variable("RANK", 0), _variable("WORLD_SIZE", 1)
        where = _device(device, _variable("LOCAL_RANK", 0))
        if size > 1 and not dist.is_initialized():
            backend = "nccl" if where.type == "cuda" else "gloo"
            # Rank 0 may tokenise for hours while the others wait.
            dist.init_process_group(backend, rank=rank, world_size=size, timeout=timedelta(hours=12))
        return cls(rank, size, where)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 runs the body alone, then the others, who find what it cached."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its sum over all ranks."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum gradients over all ranks; a parameter without one counts as zero."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def _variable(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise ValueError(f"The environment variable {name} is {value!r}: unset it, or let torchrun set it.")
    return int(value)


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device {name!r} is unknown: use auto, cpu, cuda or cuda:0, cuda:1 and so on.")
    device = torch.device(name)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ValueError("device cuda was asked for but PyTorch sees no GPU: use --device cpu.")
    device = torch.device("cuda", local_rank if device.index is None else device.index)
    if device.index >= torch.cuda.device_count():
        raise ValueError(f"device {device} was asked for but PyTorch sees {torch.cuda.device_count()}: lower it.")
    torch.cuda.set_device(device)
    return device
