"""`linear_token_logps`: checks, dispatch by device, and registration with PyTorch."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from iwpo_kernels.checks import check_first_derivative, check_range, check_switch, refuse_vmap
from iwpo_kernels.constants import IGNORED
from iwpo_kernels.devices import checks_labels, computing_on, runs_triton
from iwpo_kernels.linear_token_logps import cpu
from iwpo_kernels.linear_token_logps.arguments import as_linear_layer, check_arguments, check_settings
from iwpo_kernels.linear_token_logps.label_logits import label_logits
from iwpo_kernels.linear_token_logps.saving import saves_masses
from iwpo_kernels.linear_token_logps.tiling import padded_vocab
from iwpo_kernels.linear_token_logps.types import Forward, Head, Kept, TokenStatistics, exact_dtype

# The compiler cuts its CUDA graphs here: the host counts labels, unless all are served, and has ample time to launch.
NOT_CAPTURED = (torch.Tag.cudagraph_unsafe,)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]
Settings = tuple[float | None, float, float, int, bool | Literal["auto"], bool]


def linear_token_logps(
    hidden: Tensor,
    head_weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    hidden_index: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    temperature: float = 1.0,
    workspace_mb: int = 256,
    save: bool | Literal["auto"] = "auto",
    all_served: bool = False,
) -> Tensor:
    """Log-probs of labels under a language-model head, without its logits.

    With z = softcap(scale · (h Wᵀ + b)) / temperature and softcap(x) = c · tanh(x / c), returns
    log p = z_label − log Σ_v exp(z_v) for each token. Logits exist one slice of the vocabulary at a time
    and in float32; ∂log p/∂h, which does not depend on the loss, is made in the same pass, as attention with
    keys and values W: the README beside this file derives it. In products of N·V·H multiply-adds: 1 without
    gradients, 2 with a frozen head, 3 with a trainable head and `save`, 4 without. Runs repeat bitwise. The number of
    labels to serve is read back from the device, once, unless `all_served`. Differentiable once, by torch.autograd;
    not by torch.func. Under autocast the inputs are cast as for a linear layer, and nothing inside is rounded further.
    `torch.utils.flop_counter` counts the products, of all N labels, as the host does not know which are -100.

    Args:
        hidden: [T, H], bfloat16, float16 or float32 (float64 on a CPU); or [..., H] with labels of the same shape
            before H, which the results then have.
        head_weight: [V, H], the LM head, dtype of hidden, or float32 beside 16-bit hidden states: master weights, which
            products round to the dtype of hidden and which get a float32 gradient that nothing rounds.
        labels: int64 [N], values in 0..V−1, or -100: log-prob 0, no gradient, no work.
        bias: [V], dtype of hidden or of head_weight, or None.
        hidden_index: int64 [N], row of hidden that predicts each label; may repeat. None means N == T, in order.
        softcap: c, or None for no cap.
        scale: factor of the logits before the cap (Cohere's `logit_scale`, 1 / Granite's `logits_scaling`).
        temperature: divisor of the capped logits.
        workspace_mb: MiB for slices of logits, beside the float32 [N, H] that the gradient of hidden needs and, with
            master weights, a 16-bit copy of them in the forward pass. A CPU uses at most 32 of them.
        save: keep N · V exponentials for a trainable head's gradient. "auto" keeps them where they take at most
            1/16 of the device's memory; a compiled call compiles once more for lengths on the other side, and
            takes lengths that it cannot know beforehand as too long. Memory goes by N, labels of -100 included:
            where they are many, pass the others alone, with hidden_index.
        all_served: no label is -100, so that the host need not wait for the device to count the others, and
            `torch.cuda.graph` can capture the call once it has run; a -100 then counts as outside the vocabulary.

    Returns:
        float32 [N] (float64 for float64 inputs). On a GPU a label outside the vocabulary gives NaN.

    Raises:
        TypeError: an argument is no tensor, a sparse one, no number, or no truth value.
        ValueError: shapes, dtypes, devices or numbers do not fit; a second derivative or one of forward mode is asked
            for; or a label or index is out of range, which is checked on a CPU always and on a GPU if IWPO_DEBUG=1.
    """
    hidden, head_weight, labels, bias, shape = as_linear_layer(hidden, head_weight, labels, bias)
    settings = (softcap, scale, temperature, workspace_mb, save, all_served)
    return _streamed((hidden, head_weight, labels, bias, hidden_index), settings, statistics=False)[0].view(shape)


def linear_token_statistics(
    hidden: Tensor,
    head_weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    hidden_index: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    temperature: float = 1.0,
    workspace_mb: int = 256,
    save: bool | Literal["auto"] = "auto",
    all_served: bool = False,
    log_sum_exp: bool = False,
) -> TokenStatistics:
    """`linear_token_logps` and, from the same pass, what the distribution of each token looks like.

    Takes the same arguments and raises the same errors; only log-probs and log-sum-exps carry a gradient.

    Args:
        log_sum_exp: return log Σ_v exp(z_v) too, for a z-loss. It takes the labels' logits beside the log-probs: [N, H]
            rows of the head, and for a trainable head a gradient of its size.
    """
    hidden, head_weight, labels, bias, shape = as_linear_layer(hidden, head_weight, labels, bias)
    check_switch("log_sum_exp", log_sum_exp)
    settings = (softcap, scale, temperature, workspace_mb, save, all_served)
    logps, statistics = _streamed((hidden, head_weight, labels, bias, hidden_index), settings, statistics=True)
    entropy, sum_p2, target_is_argmax, mean_logit = statistics.view(4, *shape).unbind()
    normalizer = None
    if log_sum_exp:
        rows = hidden if hidden_index is None else hidden[hidden_index]
        logits = label_logits(rows, labels, Head(head_weight, bias, softcap, float(scale), float(temperature)))
        normalizer = (logits - logps).view(shape)
    return TokenStatistics(logps.view(shape), entropy, sum_p2, target_is_argmax > 0, mean_logit, normalizer)


def _streamed(inputs: Inputs, settings: Settings, statistics: bool) -> tuple[Tensor, Tensor]:
    """Log-probs [N], and statistics [4, N] or [4, 0]."""
    hidden, head_weight, labels, bias, _ = inputs
    softcap, scale, temperature, workspace_mb, save, all_served = settings
    check_arguments(*inputs)
    check_settings(softcap, scale, temperature, workspace_mb, save, all_served)
    wants_grad = torch.is_grad_enabled()
    trains_head = wants_grad and (head_weight.requires_grad or (bias is not None and bias.requires_grad))
    logps, made, *_ = _forward_op(
        *inputs,
        softcap,
        float(scale),
        float(temperature),
        statistics,
        workspace_mb,
        wants_grad and hidden.requires_grad,
        trains_head and _saves(save, hidden, head_weight, labels),
        all_served,
    )
    return logps, made


# Sentences with a size or a number are made only where they are raised: formatting one that torch.compile keeps
# symbolic would make it a constant, and every other value a recompilation.


def _saves(save: bool | Literal["auto"], hidden: Tensor, weight: Tensor, labels: Tensor) -> bool:
    if isinstance(save, bool):
        return save
    return saves_masses(labels.shape[0], weight.shape[0], _mass_dtype(hidden).itemsize, hidden.device)


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


@torch.library.custom_op("iwpo_kernels::linear_token_logps", mutates_args=(), tags=NOT_CAPTURED)
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
    all_served: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    out = _empty_forward(hidden, weight, labels, stats, jacobian, save)
    if checks_labels(hidden.device):
        check_range("labels", labels, weight.shape[0], None if all_served else IGNORED)
        if hidden_index is not None:
            check_range("hidden_index", hidden_index, hidden.shape[0])
    kept = Kept.of(labels, all_served)
    rows = kept.rows(hidden, labels, hidden_index)
    if rows.position is not None:
        for per_token in (out.logps, out.statistics, out.jacobian, out.state):
            per_token.zero_()
        out.masses[rows.count :].zero_()
    head = Head(weight, bias, softcap, scale, temperature)
    if rows.count:
        with computing_on(hidden.device):
            _path(hidden.device).forward(rows, head, out, workspace_mb)
    return out.logps, out.statistics, out.jacobian, out.masses, out.state, kept.position, kept.count


@_forward_op.register_fake
def _(hidden, weight, labels, bias, index, cap, scale, heat, stats, mb, jacobian, save, all_served=False):  # type: ignore[no-untyped-def]
    out = _empty_forward(hidden, weight, labels, stats, jacobian, save)
    kept = Kept.empty(labels, all_served)
    return out.logps, out.statistics, out.jacobian, out.masses, out.state, kept.position, kept.count


@torch.library.custom_op("iwpo_kernels::linear_token_logps_hidden_gradient", mutates_args=())
def _hidden_gradient_op(
    grad: Tensor, labels: Tensor, hidden_index: Tensor | None, jacobian: Tensor, rows: int, dtype: torch.dtype
) -> Tensor:
    """Gradient of hidden, [rows, H]."""
    out = jacobian.new_empty(rows, jacobian.shape[1], dtype=dtype)
    if not labels.shape[0]:
        return out.zero_()
    with computing_on(grad.device):
        _path(grad.device).hidden_gradient(grad.where(labels != IGNORED, 0), jacobian, hidden_index, out)
    return out


@_hidden_gradient_op.register_fake
def _(grad, labels, hidden_index, jacobian, rows, dtype):  # type: ignore[no-untyped-def]
    return jacobian.new_empty(rows, jacobian.shape[1], dtype=dtype)


def _empty_head_gradients(weight: Tensor, needs_weight: bool, needs_bias: bool) -> tuple[Tensor, Tensor]:
    vocab, features = weight.shape
    return (
        weight.new_empty(vocab if needs_weight else 0, features),
        weight.new_empty(vocab if needs_bias else 0),
    )


@torch.library.custom_op("iwpo_kernels::linear_token_logps_head_gradient", mutates_args=(), tags=NOT_CAPTURED)
def _head_gradient_op(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    hidden_index: Tensor | None,
    masses: Tensor,
    state: Tensor,
    position: Tensor,
    count: Tensor,
    softcap: float | None,
    scale: float,
    temperature: float,
    workspace_mb: int,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias; an empty tensor for one that is not needed."""
    grad_weight, grad_bias = _empty_head_gradients(weight, needs_weight, needs_bias)
    rows = Kept(position, count).rows(hidden, labels, hidden_index)
    if not rows.count:
        return grad_weight.zero_(), grad_bias.zero_()
    with computing_on(hidden.device):
        _path(hidden.device).head_gradient(
            grad if rows.position is None else grad[rows.position],
            rows,
            Head(weight, bias, softcap, scale, temperature),
            masses,
            state,
            grad_weight if needs_weight else None,
            grad_bias if needs_bias else None,
            workspace_mb,
        )
    return grad_weight, grad_bias


@_head_gradient_op.register_fake
def _(grad, hidden, weight, *rest):  # type: ignore[no-untyped-def]
    *_, needs_weight, needs_bias = rest
    return _empty_head_gradients(weight, needs_weight, needs_bias)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, labels, bias, hidden_index, softcap, scale, temperature, _, workspace_mb, *_ = inputs
    _, statistics, jacobian, masses, state, position, count = output
    ctx.mark_non_differentiable(statistics, jacobian, masses, state, position, count)
    ctx.set_materialize_grads(False)
    _, needs_weight, _, needs_bias, *_ = ctx.needs_input_grad
    head = (hidden, weight, bias, masses, state, position, count) if needs_weight or needs_bias else (None,) * 7
    ctx.save_for_backward(labels, hidden_index, jacobian, *head)
    ctx.rows, ctx.dtype = hidden.shape[0], hidden.dtype
    ctx.settings = (softcap, scale, temperature, workspace_mb)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    needs_hidden, needs_weight, _, needs_bias, *_ = ctx.needs_input_grad
    labels, hidden_index, jacobian, hidden, weight, bias, *rest = ctx.saved_tensors
    grads: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
    if grad is None:
        return tuple(grads)
    check_first_derivative("linear_token_logps")
    if needs_weight or needs_bias:
        grad_weight, grad_bias = _head_gradient_op(
            grad, hidden, weight, labels, bias, hidden_index, *rest, *ctx.settings, needs_weight, needs_bias
        )
        grads[1] = grad_weight if needs_weight else None
        grads[3] = grad_bias if needs_bias else None
    if needs_hidden:  # last, because it fits where the head's gradient had its copy of the hidden states
        grads[0] = _hidden_gradient_op(grad, labels, hidden_index, jacobian, ctx.rows, ctx.dtype)
    return tuple(grads)


_forward_op.register_autograd(_backward, setup_context=_setup_context)
for _op in (_forward_op, _hidden_gradient_op, _head_gradient_op):
    _op.register_vmap(refuse_vmap("linear_token_logps"))
