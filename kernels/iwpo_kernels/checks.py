"""Checks of arguments that every operator shares. Each error is one sentence that says what to pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

FLOATING = (torch.bfloat16, torch.float16, torch.float32)
# Numbers in this range, their inverses and their quotients fit in float32.
SMALLEST, LARGEST = 1e-16, 1e16
LARGEST_FLOAT = torch.finfo(torch.float64).max


def check(condition: bool, sentence: str) -> None:
    """Raises ValueError with the sentence unless the condition holds."""
    if not condition:
        raise ValueError(sentence)


def check_tensor(name: str, value: object) -> None:
    """It is a tensor whose elements lie in memory one by one, all of them on this rank.

    Raises:
        TypeError: it is none, sparse, or a part of a tensor that several ranks hold.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is of type {type(value).__name__}: pass a tensor.")
    if hasattr(value, "full_tensor"):  # a DTensor, known without the import of torch.distributed
        raise TypeError(
            f"{name} is a DTensor, of which this rank holds a part: call the operator inside the forward of the "
            f"wrapped module, where it is whole, or pass {name}.full_tensor()."
        )
    if value.layout != torch.strided:
        raise TypeError(f"{name} has the layout {value.layout}: pass {name}.to_dense().")


def check_number(name: str, value: object) -> None:
    """It is a number that a float holds, and no truth value.

    Raises:
        TypeError, ValueError: it is of another kind, or too large.
    """
    if isinstance(value, float):
        return
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value}: pass a number.")
    if not isinstance(value, int) and (not hasattr(value, "__float__") or getattr(value, "ndim", 0) != 0):
        raise TypeError(f"{name} is of type {type(value).__name__}: pass a number.")
    if isinstance(value, int) and not -LARGEST_FLOAT <= value <= LARGEST_FLOAT:
        raise ValueError(f"{name} is a whole number that no float holds: pass a smaller one.")


def check_switch(name: str, value: object) -> None:
    """It is True or False.

    Raises:
        TypeError: it is anything else, which PyTorch would not pass on.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}: pass True or False.")


def check_index(name: str, index: Tensor, like: Tensor, what: str) -> None:
    """`index` is an int64 vector on the device of `like`."""
    check_tensor(name, index)
    check(index.ndim == 1, f"{name} has {index.ndim} dimensions: pass one {what} per token, [N].")
    check(index.dtype == torch.int64, f"{name} is {index.dtype}: pass {name}.long().")
    check_device(name, index, like)


def check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    check(
        tensor.device == like.device,
        f"{name} is on {tensor.device} and the other arguments on {like.device}: move it there.",
    )


def check_floating(name: str, tensor: Tensor) -> None:
    """float32 and its 16-bit relatives anywhere, float64 on a CPU."""
    allowed = (*FLOATING, torch.float64) if tensor.device.type == "cpu" else FLOATING
    check(
        tensor.dtype in allowed,
        f"{name} is {tensor.dtype} on {tensor.device}: pass bfloat16, float16 or float32 (float64 on a CPU).",
    )


def check_positive(name: str, value: float) -> None:
    check_number(name, value)
    # No call of `check`: torch.compile cannot write a symbolic float into a sentence that is not needed.
    if not SMALLEST <= value <= LARGEST:
        raise ValueError(f"{name} is {value}: pass a positive number, from {SMALLEST} to {LARGEST}.")


def check_no_tangent(name: str, tensor: Tensor) -> None:
    """The tensor carries no derivative of forward mode, because the operators would drop it."""
    check(
        unpack_dual(tensor).tangent is None,
        f"{name} carries a forward-mode derivative, which the operators do not pass on: use torch.autograd.grad.",
    )


def check_first_derivative(operator: str) -> None:
    """For backward passes: no graph of the pass is asked for, because it would lack what second derivatives need."""
    check(
        not torch.is_grad_enabled(),
        f"{operator} is differentiable once: leave out create_graph=True, or call naive_{operator} instead.",
    )


def check_range(name: str, values: Tensor, limit: int, ignored: int | None = None) -> None:
    """Every value is in 0..limit − 1, or the ignored one. Reads back from the device."""
    bad = (values < 0) | (values >= limit)
    if ignored is not None:
        bad &= values != ignored
    if bad.any():
        where = int(bad.nonzero()[0, 0])
        or_ignored = "" if ignored is None else f", or {ignored} to skip a token"
        raise ValueError(f"{name}[{where}] is {int(values[where])}: pass values in 0..{limit - 1}{or_ignored}.")


def refuse_vmap(operator: str) -> Callable[..., NoReturn]:
    """What an operator registers for `torch.vmap`, which would give it batches that it cannot tell from tokens."""

    def refuse(*_: object) -> NoReturn:
        raise ValueError(f"{operator} does not run under torch.vmap: put the batch's tokens end to end in one call.")

    return refuse
