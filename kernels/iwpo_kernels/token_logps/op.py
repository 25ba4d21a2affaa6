"""`token_logps`: checks, dispatch by device, and registration with PyTorch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from iwpo_kernels.checks import (
    check,
    check_first_derivative,
    check_floating,
    check_index,
    check_no_tangent,
    check_positive,
    check_range,
    check_switch,
    check_tensor,
    refuse_vmap,
)
from iwpo_kernels.constants import IGNORED
from iwpo_kernels.devices import checks_labels, computing_on, runs_triton
from iwpo_kernels.token_logps import cpu


def token_logps(logits: Tensor, labels: Tensor, *, temperature: float = 1.0, inplace_backward: bool = False) -> Tensor:
    """Log-probs of labels: z_label − log Σ_v exp(z_v) with z = logits / temperature.

    The logits are read once, and once more in the backward pass. Runs repeat bitwise. Differentiable once, by
    torch.autograd; not by torch.func.

    Args:
        logits: [N, V] of any strides, bfloat16, float16 or float32 (float64 on a CPU).
        labels: int64 [N], values in 0..V−1, or -100: log-prob 0, gradient 0, logits not read.
        temperature: divisor of the logits.
        inplace_backward: write the gradient over the logits, which nothing may need any more by then, neither the user
            nor the backward pass of another operation, in which case autograd raises. A compiled graph that makes
            the logits itself may spend a copy of them instead.

    Returns:
        float32 [N] (float64 for float64 logits). On a GPU a label outside the vocabulary gives NaN.

    Raises:
        TypeError: an argument is no tensor, a sparse one, no number, or no truth value.
        ValueError: shapes, dtypes, devices or numbers do not fit; logits that are to be written over are a parameter
            or share memory; a second derivative or one of forward mode is asked for; or a label is out of range,
            which is checked on a CPU always and on a GPU if IWPO_DEBUG=1.
    """
    check_tensor("logits", logits)
    check(logits.ndim == 2, f"logits has {logits.ndim} dimensions: pass [N, V], e.g. logits.flatten(0, -2).")
    check_floating("logits", logits)
    check_no_tangent("logits", logits)
    check_index("labels", labels, logits, "label")
    if labels.shape[0] != logits.shape[0]:  # formatting a size would tie a compiled graph to it
        raise ValueError(
            f"there are {labels.shape[0]} labels for {logits.shape[0]} rows of logits: pass one label per row."
        )
    check(logits.shape[1] > 1, "logits has fewer than 2 columns: pass a vocabulary of at least 2 tokens.")
    check_positive("temperature", temperature)
    check_switch("inplace_backward", inplace_backward)
    if inplace_backward:
        check(
            not _overlaps(logits),
            "elements of logits share memory, as after expand or unfold: pass inplace_backward=False.",
        )
        check(
            not _is_parameter(logits),
            "logits is a leaf that requires grad, or a view of one, and would lose its values: "
            "pass inplace_backward=False.",
        )
    return _forward_op(logits, labels, float(temperature), inplace_backward)[0]


def _is_parameter(tensor: Tensor) -> bool:
    base = tensor if tensor._base is None else tensor._base
    return base.is_leaf and base.requires_grad


def _overlaps(matrix: Tensor) -> bool:
    """Whether strides lead to some element twice: they do not where one line, either way, ends before the next begins.

    There are at least two columns; the stride of a single row leads nowhere.
    """
    (rows, columns), (across_rows, across_columns) = matrix.shape, matrix.stride()
    if rows <= 1:
        return across_columns == 0
    if across_rows == 0 or across_columns == 0:
        return True
    return across_rows <= across_columns * (columns - 1) and across_columns <= across_rows * (rows - 1)


def _path(device: torch.device) -> ModuleType:
    """The module that computes; Triton is imported only where it is used."""
    if runs_triton(device):
        from iwpo_kernels.token_logps import gpu

        return gpu
    return cpu


def _empty_forward(logits: Tensor) -> tuple[Tensor, Tensor]:
    tokens = logits.shape[0]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.new_empty(tokens, dtype=dtype), logits.new_empty(3, tokens, dtype=dtype)


@torch.library.custom_op("iwpo_kernels::token_logps", mutates_args=())
def _forward_op(logits: Tensor, labels: Tensor, temperature: float, inplace_backward: bool) -> tuple[Tensor, Tensor]:
    """Log-probs [N], and what the backward pass needs, [3, N]."""
    logps, state = _empty_forward(logits)
    if checks_labels(logits.device):
        check_range("labels", labels, logits.shape[1], IGNORED)
    if labels.shape[0]:
        with computing_on(logits.device):
            _path(logits.device).forward(logits, labels, temperature, logps, state)
    return logps, state


@_forward_op.register_fake
def _(logits: Tensor, labels: Tensor, temperature: float, inplace_backward: bool) -> tuple[Tensor, Tensor]:
    return _empty_forward(logits)


def _write_gradient(
    grad: Tensor, logits: Tensor, labels: Tensor, state: Tensor, temperature: float, out: Tensor
) -> None:
    if labels.shape[0]:
        with computing_on(logits.device):
            _path(logits.device).backward(grad, logits, labels, state, temperature, out)


@torch.library.custom_op("iwpo_kernels::token_logps_backward", mutates_args=())
def _backward_op(grad: Tensor, logits: Tensor, labels: Tensor, state: Tensor, temperature: float) -> Tensor:
    out = logits.new_empty(logits.shape)
    _write_gradient(grad, logits, labels, state, temperature, out)
    return out


@_backward_op.register_fake
def _(grad: Tensor, logits: Tensor, labels: Tensor, state: Tensor, temperature: float) -> Tensor:
    return logits.new_empty(logits.shape)


@torch.library.custom_op("iwpo_kernels::token_logps_backward_", mutates_args=("logits",))
def _inplace_backward_op(grad: Tensor, logits: Tensor, labels: Tensor, state: Tensor, temperature: float) -> None:
    _write_gradient(grad, logits, labels, state, temperature, logits)


@_inplace_backward_op.register_fake
def _(grad: Tensor, logits: Tensor, labels: Tensor, state: Tensor, temperature: float) -> None:
    return None


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, labels, ctx.temperature, ctx.inplace = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits, labels, output[1])


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, None, None, None]:
    if grad is None:
        return None, None, None, None
    check_first_derivative("token_logps")
    logits, labels, state = ctx.saved_tensors
    if ctx.inplace:
        _inplace_backward_op(grad, logits, labels, state, ctx.temperature)
        return logits.detach(), None, None, None
    return _backward_op(grad, logits, labels, state, ctx.temperature), None, None, None


_forward_op.register_autograd(_backward, setup_context=_setup_context)
for _op in (_forward_op, _backward_op):
    _op.register_vmap(refuse_vmap("token_logps"))
