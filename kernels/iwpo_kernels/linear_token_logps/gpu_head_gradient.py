"""The gradient of the head on a GPU: what all tokens pull at all columns, and what each pushes onto its label's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from iwpo_kernels.linear_token_logps import kernels
from iwpo_kernels.linear_token_logps.index_sums import add_by_index
from iwpo_kernels.linear_token_logps.tiling import Work, gpu_tiling
from iwpo_kernels.linear_token_logps.tuned import DEFAULTS, tuned
from iwpo_kernels.linear_token_logps.types import Head, Rows, raw_logits
from iwpo_kernels.wide_products import mm_fp32

Pulls = Iterator[tuple[int, int, Tensor]]  # of columns first..last, [K, last − first]


def head_gradient(
    grad: Tensor,
    rows: Rows,
    head: Head,
    masses: Tensor,
    state: Tensor,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    workspace_mb: int,
) -> None:
    """Writes the gradients of the head; `grad` [K] is that of the kept log-probs, and 0 · NaN counts as 0.

    The pull of token k on column v is −a · grad · masses, the push on its label's column b · grad. Saved masses are
    left alone and −a · grad is rounded with the hidden states, so that one product makes the whole gradient; where
    masses are made or copied here, pulls are what is rounded to the dtype of the product.

    float16 ends at 2¹⁶ and thins out below 2⁻¹⁴, so its saved masses are copied, and pulls are scaled such that the
    largest gradient comes to the top of the range: every pull is then as exact as plain PyTorch's gradient of a logit,
    except in columns with less than 2⁻¹⁴ of a token's largest saved mass.
    """
    m, a, b = (part[: rows.count] for part in state)
    idle = grad == 0
    x = rows.gather(0, rows.count).masked_fill(idle[:, None], 0)
    push = (b * grad).masked_fill_(idle, 0)
    pull, unscale = -a * grad, None
    if x.dtype == torch.float16:
        scale = _scale_to_top((head.slope * grad).abs())
        pull, unscale = -a * (scale * grad), 1 / scale
    pull.masked_fill_(idle, 0)
    column = torch.ones_like(x[:, :1])
    if not masses.shape[0]:
        pulls = _recomputed(x, rows, head, m, pull, workspace_mb)
    elif x.dtype == torch.float16:
        pulls = _copied(masses, rows, head, pull, workspace_mb)
    else:
        x.mul_(pull[:, None])
        column = pull[:, None].to(x.dtype)
        pulls = iter([(0, head.weight.shape[0], masses[: rows.count, : head.weight.shape[0]])])
    bias_sums = None if grad_bias is None else torch.empty(grad_bias.shape[0], 1, device=x.device)
    for first, last, part in pulls:
        if grad_weight is not None:
            _product(part.t(), x, unscale, grad_weight[first:last])
        if bias_sums is not None:
            _product(part.t(), column, unscale, bias_sums[first:last])
    if grad_weight is not None:
        source = rows.hidden if rows.hidden.stride(1) == 1 else rows.hidden.contiguous()
        add_by_index(grad_weight, source, rows.source, push, rows.labels)
    if grad_bias is not None and bias_sums is not None:
        add_by_index(bias_sums, torch.ones_like(push[:, None]), None, push, rows.labels)
        grad_bias.copy_(bias_sums[:, 0])


def _product(a: Tensor, b: Tensor, factor: Tensor | None, out: Tensor) -> None:
    """out ← factor · a times b, summed in float32 and rounded once."""
    if factor is not None:
        torch.mul(mm_fp32(a, b), factor, out=out)
    elif out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    else:
        mm_fp32(a, b, out=out)


def _scale_to_top(magnitudes: Tensor) -> Tensor:
    """The power of two, float32 [], that brings the largest of float32 [K] to 2¹⁴..2¹⁵; float16 ends at 2¹⁶."""
    largest = magnitudes.amax()
    _, exponent = torch.frexp(largest)
    return torch.ldexp(torch.ones_like(largest), (15 - exponent).clamp(-100, 100))


def _copied(masses: Tensor, rows: Rows, head: Head, pull: Tensor, workspace_mb: int) -> Pulls:
    work = gradient_work(rows.count, head, masses.dtype, saved=True)
    tiling = gpu_tiling(work, workspace_mb, masses.device, DEFAULTS)
    buffer = masses.new_empty(rows.count, tiling.width)
    for first, last in tiling.slices(head.weight.shape[0]):
        part = masses[: rows.count, first:last]
        yield first, last, torch.mul(part, pull[:, None], out=buffer[:, : last - first])


def _recomputed(x: Tensor, rows: Rows, head: Head, m: Tensor, pull: Tensor, workspace_mb: int) -> Pulls:
    vocab, features = head.weight.shape
    settings = tuned(x.device, features, "recomputed")
    tiling = gpu_tiling(gradient_work(rows.count, head, x.dtype, saved=False), workspace_mb, x.device, settings)
    logits = torch.empty(rows.count, tiling.width, device=x.device)
    buffer = torch.empty_like(logits, dtype=x.dtype)
    for first, last in tiling.slices(vocab):
        z = raw_logits(x, head.part(first, last, x.dtype), logits)
        part = buffer[:, : last - first]
        kernels.recompute_kernel[(rows.count * triton.cdiv(last - first, kernels.RECOMPUTE_BLOCK),)](
            z,
            part,
            rows.labels,
            m,
            pull,
            z.stride(0),
            part.stride(0),
            first,
            last - first,
            head.slope,
            head.ceiling or 0.0,
            SOFTCAP=head.ceiling is not None,
            BLOCK=kernels.RECOMPUTE_BLOCK,
            num_warps=kernels.RECOMPUTE_WARPS,
        )
        yield first, last, part


def gradient_work(count: int, head: Head, dtype: torch.dtype, saved: bool) -> Work:
    """What the head's gradient keeps in the workspace: logits, pulls, and for float16 its own rows.

    Its copy of the hidden states is not counted, because the gradient of hidden states, which is made next, is as
    large: the peak is that of the workspace and the results.
    """
    vocab, features = head.weight.shape
    return Work(
        count=count,
        vocab=vocab,
        features=features,
        per_logit=dtype.itemsize + (0 if saved else 4),
        per_column=4 * features if dtype == torch.float16 else 0,
        second="head",
    )
