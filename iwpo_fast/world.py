"""The processes of one job: who I am, sums over all of us, and waiting for one another."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from iwpo_fast import peers, signals
from iwpo_fast.context_group import ContextGroup
from iwpo_fast.terminal import escaped_lines

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long processes wait for one that reads, tokenises or writes alone."""

TIMEOUT = timedelta(minutes=30)
"""How long processes wait for one that computes as they do, before they take it for stuck and the job ends."""


@dataclass(frozen=True)
class World:
    """`size` processes, of which this is number `rank`, computing on `device`.

    Attributes:
        local_rank, local_size: the same among the processes of this machine.
        waiting: the group in which processes wait for one that works alone.
        context: the processes with which this one computes each of its batches; None where it does so alone.
    """

    rank: int
    size: int
    device: torch.device
    local_rank: int = 0
    local_size: int = 1
    waiting: dist.ProcessGroup | None = None
    context: ContextGroup | None = None

    @classmethod
    def start(cls, device: str = "auto") -> World:
        """Join the job that torchrun's environment variables describe, or be alone.

        Raises:
            ValueError: the device is unknown or not there, one of these variables is not a number or goes with no job,
                or another process has failed or not come.
        """
        signals.check()
        rank, size = _variable("RANK", 0), _variable("WORLD_SIZE", 1)
        _check_variables(rank, size)
        local_rank, local_size = _variable("LOCAL_RANK", rank), _variable("LOCAL_WORLD_SIZE", size)
        where = _device(device, local_rank)
        if size == 1:
            return cls(rank, size, where)
        if (port := _variable("MASTER_PORT", peers.PORT)) >= 2**16:
            raise ValueError(f"The environment variable MASTER_PORT is {port}: set it to less than 65536.")
        if not dist.is_initialized():
            backend = "nccl" if where.type == "cuda" else "gloo"
            store = peers.meet()
            dist.init_process_group(backend, rank=rank, world_size=size, timeout=TIMEOUT, store=store)
        return cls(rank, size, where, local_rank, local_size, _waiting_group())

    def in_contexts_of(self, processes: int) -> World:
        """The same, where so many neighbouring processes compute each batch together. All ranks call it.

        Raises:
            ValueError: the job's processes cannot be split that way.
        """
        if processes < 1 or self.size % processes:
            raise ValueError(
                f"context_parallel is {processes} but the job's {self.size} processes cannot be split into groups of "
                f"{processes}: set a number that divides {self.size}."
            )
        if processes == 1:
            return self
        shape = self.size // processes, processes
        mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=("data", "context"))
        return replace(self, context=ContextGroup(self.rank % processes, processes, mesh.get_group("context")))

    @property
    def data_rank(self) -> int:
        """Which of `data_size` shares of the batches this process computes, alone or with those of its context."""
        return self.rank if self.context is None else self.rank // self.context.size

    @property
    def data_size(self) -> int:
        return self.size if self.context is None else self.size // self.context.size

    @property
    def has_share(self) -> bool:
        """Whether it is the first of those that compute the same batches."""
        return self.context is None or self.context.rank == 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def say(self, *lines: str) -> None:
        """Print on rank 0 alone, at once."""
        for line in lines if self.is_main else ():
            print(escaped_lines(line), flush=True)

    def barrier(self) -> None:
        """Wait until all ranks are here, for hours if need be."""
        if self.size > 1:
            dist.barrier(self.waiting)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 runs the body alone, then the others, who find what it cached."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """The processes of a machine run the body one after another, so that only one needs its memory."""
        for _ in range(self.local_rank):
            self.barrier()
        yield
        for _ in range(self.local_rank, self.local_size):
            self.barrier()

    def from_main(self, value: T) -> T:
        """The value that rank 0 gave; the values of the other ranks are ignored."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self.waiting)
        return box[0]

    def gathered(self, value: T) -> list[T]:
        """What every rank gave, by rank; they wait for one another as in `barrier`."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.waiting)
        return values

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its sum over all ranks; those that compute the same batches count once."""
        if not self.has_share:
            tensor.zero_()
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, number: int) -> int:
        """The largest of the numbers that the ranks gave; they wait for one another as in `barrier`."""
        largest = torch.tensor(int(number))
        if self.size > 1:
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.waiting)
        return int(largest)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum gradients over all ranks. A missing one counts as zero; those of sharded parameters are sums already."""
        if self.size == 1:
            return
        for parameter in parameters:
            if isinstance(parameter, DTensor):
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread over processes, which then all must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@functools.cache
def _waiting_group() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def _variable(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise ValueError(f"The environment variable {name} is {value!r}: unset it, or let torchrun set it.")
    return int(value)


def _check_variables(rank: int, size: int) -> None:
    """Raise ValueError if they describe no job, such as those that a shell has kept of another one."""
    if rank >= size:
        raise ValueError(
            f"The environment variable RANK is {rank} and WORLD_SIZE is {size}, but ranks count from 0: unset both, or "
            "let torchrun set them."
        )
    absent = [name for name in ("RANK", "MASTER_ADDR") if size > 1 and name not in os.environ]
    if absent and not dist.is_initialized():
        raise ValueError(
            f"The environment variable WORLD_SIZE is {size} and {absent[0]} is not set: unset WORLD_SIZE to be one "
            "process, or let torchrun set all of them."
        )


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
