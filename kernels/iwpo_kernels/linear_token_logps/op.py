"""`linear_token_logps`: checks, dispatch by device, and registration with PyTorch."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from iwpo_kernels.checks import check, check_device, check_floating, check_index, check_range
from iwpo_kernels.devices import checks_labels, runs_triton
from iwpo_kernels.linear_token_logps import cpu
from iwpo_kernels.linear_token_logps.tiling import padded_vocab, saves_masses
from iwpo_kernels.linear_token_logps.types import IGNORED, Forward, Head, TokenLogps, exact_dtype, kept_rows


def linear_token_logps(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    hidden_index: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    temperature: float = 1.0,
    stats: bool = False,
    workspace_mb: int = 256,
    save: bool | Literal["auto"] = "auto",
) -> Tensor | TokenLogps:
    """Log-probs of labels under a language-model head, without its logits.

    With z = softcap(scale · (h Wᵀ + b)) / temperature and softcap(x) = c · tanh(x / c), returns
    log p = z_label − log Σ_v exp(z_v) for each token. Logits exist one slice of the vocabulary at a time
    and in float32; ∂log p/∂h, on which no loss has an influence, is made in the same pass, as attention with
    keys and values W. In products of N·V·H multiply-adds: 1 without gradients, 2 with a frozen head,
    3 with a trainable head and `save`, 4 without. Runs repeat bitwise.

    Args:
        hidden: [T, H], bfloat16, float16 or float32 (float64 on a CPU).
        weight: [V, H], dtype and device of hidden.
        labels: int64 [N], values in 0..V−1, or -100: log-prob 0, no gradient, no work.
        bias: [V] or None.
        hidden_index: int64 [N], row of hidden that predicts each label; may repeat. None means N == T, in order.
        softcap: c, or None for no cap.
        scale: factor of the logits before the cap (Cohere's `logit_scale`, 1 / Granite's `logits_scaling`).
        temperature: divisor of the capped logits.
        stats: return `TokenLogps`, with statistics of the distributions from the same pass.
        workspace_mb: MiB for slices of logits, beside the float32 [N, H] that the gradient of hidden needs.
        save: keep N · V exponentials for a trainable head's gradient. "auto" keeps them where they take at most
            1/16 of the device's memory, and never under `torch.compile`.

    Returns:
        float32 [N] (float64 for float64 inputs), or `TokenLogps` of such. On a GPU a label outside the
        vocabulary gives NaN.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; or a label or index is out of range, which is checked
            on a CPU always and on a GPU if IWPO_DEBUG=1.
    """
    _check_arguments(hidden, weight, labels, bias, hidden_index)
    _check_settings(softcap, scale, temperature, workspace_mb, save)
    wants_grad = torch.is_grad_enabled()
    trains_head = wants_grad and (weight.requires_grad or (bias is not None and bias.requires_grad))
    logps, statistics, *_ = _forward_op(
        hidden,
        weight,
        labels,
        bias,
        hidden_index,
        softcap,
        float(scale),
        float(temperature),
        stats,
        workspace_mb,
        wants_grad and hidden.requires_grad,
        trains_head and _saves(save, hidden, weight, labels),
    )
    if not stats:
        return logps
    entropy, sum_p2, target_is_argmax, mean_logit = statistics.unbind()
    return TokenLogps(logps, entropy, sum_p2, target_is_argmax > 0, mean_logit)


# Sentences with a size or a number are made only where they are raised: formatting one that torch.compile keeps
# symbolic would make it a constant, and every other value a recompilation.


def _check_arguments(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, hidden_index: Tensor | None
) -> None:
    check(hidden.ndim == 2, f"hidden has {hidden.ndim} dimensions: pass [T, H], e.g. hidden.flatten(0, -2).")
    check(weight.ndim == 2, f"weight has {weight.ndim} dimensions: pass the head's [V, H].")
    if weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"hidden has {hidden.shape[1]} features and weight {weight.shape[1]}: pass a head of the same width."
        )
    check(weight.shape[0] > 1, "weight has fewer than 2 rows: pass a vocabulary of at least 2 tokens.")
    check_floating("hidden", hidden)
    check(
        weight.dtype == hidden.dtype,
        f"hidden is {hidden.dtype} and weight {weight.dtype}: cast one of them, e.g. weight.to(hidden.dtype).",
    )
    check_device("weight", weight, hidden)
    check_index("labels", labels, hidden, "label")
    if bias is not None:
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias has shape {list(bias.shape)}: pass [V], one per row of weight.")
        check(bias.dtype == hidden.dtype, f"bias is {bias.dtype} and hidden {hidden.dtype}: cast one of them.")
        check_device("bias", bias, hidden)
    if hidden_index is None:
        if labels.shape[0] != hidden.shape[0]:
            raise ValueError(
                f"there are {labels.shape[0]} labels for {hidden.shape[0]} rows of hidden: pass one label per row, "
                "or hidden_index to say which row predicts each label."
            )
    else:
        check_index("hidden_index", hidden_index, hidden, "row of hidden")
        if hidden_index.shape[0] != labels.shape[0]:
            raise ValueError(
                f"hidden_index has {hidden_index.shape[0]} entries for {labels.shape[0]} labels: pass one per label."
            )


def _check_settings(softcap: float | None, scale: float, temperature: float, workspace_mb: int, save: object) -> None:
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"softcap is {softcap}: pass a positive number, or None for no cap.")
    if not 0 < abs(scale) < math.inf:
        raise ValueError(f"scale is {scale}: pass a finite number other than 0.")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}: pass a positive number.")
    if not workspace_mb > 0:
        raise ValueError(f"workspace_mb is {workspace_mb}: pass a positive number of MiB.")
    check(isinstance(save, bool) or save == "auto", f'save is {save!r}: pass True, False or "auto".')


def _saves(save: bool | Literal["auto"], hidden: Tensor, weight: Tensor, labels: Tensor) -> bool:
    if isinstance(save, bool):
        return save
    if torch.compiler.is_compiling():  # the choice would depend on a length, and lengths must not recompile
        return False
    dtype = _mass_dtype(hidden)
    return saves_masses(labels.shape[0], weight.shape[0], dtype.itemsize, hidden.device)


def _mass_dtype(hidden: Tensor) -> torch.dtype:
    return hidden.dtype if runs_triton(hidden.device) else exact_dtype(hidden.dtype)


def _path(device: torch.device) -> ModuleType:
    """The module that computes; Triton is imported only where it is used."""
    if runs_triton(device):
        from iwpo_kernels.linear_token_logps import gpu

        return gpu
    return cpu


def _empty_forward(hidden: Tensor, weight: Tensor, labels: Tensor, stats: bool, jacobian: bool, save: bool) -> Forward:
    tokens, (vocab, features) = labels.shape[0], weight.shape
    dtype = exact_dtype(hidden.dtype)
    columns = padded_vocab(vocab) if runs_triton(hidden.device) else vocab
    return Forward(
        logps=hidden.new_empty(tokens, dtype=dtype),
        statistics=hidden.new_empty(4, tokens if stats else 0, dtype=dtype),
        jacobian=hidden.new_empty(tokens if jacobian else 0, features, dtype=dtype),
        masses=hidden.new_empty(tokens if save else 0, columns, dtype=_mass_dtype(hidden)),
        state=hidden.new_empty(3, tokens, dtype=dtype),
    )


@torch.library.custom_op("iwpo_kernels::linear_token_logps", mutates_args=())
def _forward_op(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    hidden_index: Tensor | None,
    softcap: float | None,
    scale: float,
    temperature: float,
    stats: bool,
    workspace_mb: int,
    jacobian: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    out = _empty_forward(hidden, weight, labels, stats, jacobian, save)
    if checks_labels(hidden.device):
        check_range("labels", labels, weight.shape[0], IGNORED)
        if hidden_index is not None:
            check_range("hidden_index", hidden_index, hidden.shape[0])
    rows = kept_rows(hidden, labels, hidden_index)
    if rows.position is not None:
        for per_token in (out.logps, out.statistics, out.jacobian, out.state):
            per_token.zero_()
    head = Head(weight, bias, softcap, scale, temperature)
    if rows.count:
        with torch.autocast(hidden.device.type, enabled=False):
            _path(hidden.device).forward(rows, head, out, workspace_mb)
    return out.logps, out.statistics, out.jacobian, out.masses, out.state


@_forward_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    hidden_index: Tensor | None,
    softcap: float | None,
    scale: float,
    temperature: float,
    stats: bool,
    workspace_mb: int,
    jacobian: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    out = _empty_forward(hidden, weight, labels, stats, jacobian, save)
    return out.logps, out.statistics, out.jacobian, out.masses, out.state


def _empty_gradients(
    hidden: Tensor, weight: Tensor, jacobian: Tensor, needs_weight: bool, needs_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    vocab, features = weight.shape
    return (
        hidden.new_empty(hidden.shape),
        weight.new_empty(vocab if needs_weight else 0, features),
        weight.new_empty(vocab if needs_bias else 0),
    )


@torch.library.custom_op("iwpo_kernels::linear_token_logps_backward", mutates_args=())
def _backward_op(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    hidden_index: Tensor | None,
    jacobian: Tensor,
    masses: Tensor,
    state: Tensor,
    softcap: float | None,
    scale: float,
    temperature: float,
    workspace_mb: int,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias; an empty tensor for one that is not needed."""
    grads = _empty_gradients(hidden, weight, jacobian, needs_weight, needs_bias)
    grad_hidden, grad_weight, grad_bias = grads
    grad = grad.where(labels != IGNORED, 0)
    with torch.autocast(hidden.device.type, enabled=False):
        path = _path(hidden.device)
        if jacobian.shape[0]:
            path.hidden_gradient(grad, jacobian, hidden_index, grad_hidden)
        else:
            grad_hidden.zero_()
        if needs_weight or needs_bias:
            rows = kept_rows(hidden, labels, hidden_index)
            if rows.count:
                kept_grad = grad if rows.position is None else grad[rows.position]
                saved = Forward(grad, grad, jacobian, masses, state)
                head = Head(weight, bias, softcap, scale, temperature)
                path.head_gradient(
                    kept_grad,
                    rows,
                    head,
                    saved,
                    grad_weight if needs_weight else None,
                    grad_bias if needs_bias else None,
                    workspace_mb,
                )
            else:
                grad_weight.zero_()
                grad_bias.zero_()
    return grads


@_backward_op.register_fake
def _(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    hidden_index: Tensor | None,
    jacobian: Tensor,
    masses: Tensor,
    state: Tensor,
    softcap: float | None,
    scale: float,
    temperature: float,
    workspace_mb: int,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_gradients(hidden, weight, jacobian, needs_weight, needs_bias)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, labels, bias, hidden_index, softcap, scale, temperature, _, workspace_mb, *_ = inputs
    _, statistics, jacobian, masses, state = output
    ctx.mark_non_differentiable(statistics, jacobian, masses, state)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(hidden, weight, labels, bias, hidden_index, jacobian, masses, state)
    ctx.settings = (softcap, scale, temperature, workspace_mb)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    needs_hidden, needs_weight, _, needs_bias, *_ = ctx.needs_input_grad
    others = (None,) * 8
    if grad is None:
        return (None, None, None, None, *others)
    grad_hidden, grad_weight, grad_bias = _backward_op(
        grad, *ctx.saved_tensors, *ctx.settings, needs_weight, needs_bias
    )
    return (
        grad_hidden if needs_hidden else None,
        grad_weight if needs_weight else None,
        None,
        grad_bias if needs_bias else None,
        *others,
    )


_forward_op.register_autograd(_backward, setup_context=_setup_context)
