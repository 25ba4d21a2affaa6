"""The streamed operator on a GPU: cuBLAS products of slices, and the row kernels between them."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from iwpo_kernels.devices import mm_fp32
from iwpo_kernels.launch import launch_options
from iwpo_kernels.linear_token_logps import kernels
from iwpo_kernels.linear_token_logps.tiling import Tiling, backward_tiling, forward_tiling
from iwpo_kernels.linear_token_logps.types import Forward, Head, Rows


def forward(rows: Rows, head: Head, out: Forward, workspace_mb: int) -> None:
    """Fills `out` for the kept tokens; the others keep the zeros they have."""
    weight = _with_contiguous_rows(head.weight)
    vocab, features = weight.shape
    tiling = forward_tiling(vocab, features, weight.element_size(), workspace_mb)
    bias = _wide_bias(head)
    for start, end in tiling.row_ranges(rows.count):
        state, acc = _stream(rows, head, weight, bias, out, start, end, tiling)
        _finish(rows, head, weight, out, start, end, state, acc)


def _stream(
    rows: Rows, head: Head, weight: Tensor, bias: Tensor | None, out: Forward, start: int, end: int, tiling: Tiling
) -> tuple[Tensor, Tensor | None]:
    """All slices of one tile: the state [9, R] of its rows, and Σ_v f'_v exp(z_v − m) W_v [R, H] if wanted."""
    x = rows.gather(start, end)
    labels = rows.labels[start:end]
    state = _initial_state(end - start, x)
    saves, wants_jacobian = out.masses.shape[0] > 0, out.jacobian.shape[0] > 0
    slice_masses = None
    if wants_jacobian and not saves:
        slice_masses = torch.empty(end - start, tiling.width, device=x.device, dtype=x.dtype)
    acc = None
    for first, last in tiling.slices(weight.shape[0]):
        z = _raw_logits(x, weight, bias, first, last)
        masses = out.masses[start:end, first:last] if saves else None
        if slice_masses is not None:
            masses = slice_masses[:, : last - first]
        kernels.slice_kernel[(end - start,)](
            z,
            z if masses is None else masses,
            labels,
            state,
            z.stride(0),
            0 if masses is None else masses.stride(0),
            state.stride(0),
            first,
            last - first,
            first if saves else 0,
            head.slope,
            head.ceiling or 0.0,
            kernels.slack(x.dtype),
            SOFTCAP=head.ceiling is not None,
            MASSES=masses is not None,
            STATS=out.statistics.shape[1] > 0,
            BLOCK=kernels.SLICE_BLOCK,
            **launch_options(kernels.ROW_WARPS, kernels.REGISTERS),
        )
        del z
        if wants_jacobian:
            assert masses is not None
            part = mm_fp32(masses, weight[first:last])
            if acc is None:
                acc = part
            else:
                grid = ((end - start) * triton.cdiv(acc.shape[1], kernels.FEATURE_BLOCK),)
                factor = state[kernels.FACTOR.value]
                kernels.accumulate_kernel[grid](acc, part, factor, acc.shape[1], BLOCK=kernels.FEATURE_BLOCK)
    return state, acc


def _raw_logits(x: Tensor, weight: Tensor, bias: Tensor | None, first: int, last: int) -> Tensor:
    """h Wᵀ + b of one slice, float32. Few heads have a bias, so it costs a pass of its own and no kernel a branch."""
    z = mm_fp32(x, weight[first:last].t())
    return z if bias is None else z.add_(bias[first:last])


def _initial_state(rows: int, like: Tensor) -> Tensor:
    """No mass yet. A label that no slice holds stays NaN."""
    state = torch.zeros(kernels.PLANES, rows, device=like.device)
    state[kernels.M.value] = -torch.inf
    state[kernels.TOP.value] = -torch.inf
    state[kernels.LABEL_Z.value] = torch.nan
    return state


def _finish(
    rows: Rows, head: Head, weight: Tensor, out: Forward, start: int, end: int, state: Tensor, acc: Tensor | None
) -> None:
    vocab, features = weight.shape
    kernels.finish_kernel[(end - start,)](
        state,
        state if acc is None else acc,
        state if acc is None else weight,
        rows.labels[start:end],
        rows.labels if rows.position is None else rows.position,
        out.logps,
        out.statistics,
        out.jacobian,
        out.state,
        state.stride(0),
        out.logps.shape[0],
        start,
        int(rows.position is not None),
        weight.stride(0),
        vocab,
        features,
        head.slope,
        JACOBIAN=acc is not None,
        STATS=out.statistics.shape[1] > 0,
        BLOCK=kernels.FEATURE_BLOCK,
    )


def hidden_gradient(grad: Tensor, jacobian: Tensor, hidden_index: Tensor | None, out: Tensor) -> None:
    """out [T, H] ← sum of grad_n · jacobian_n over the tokens n of each row; 0 · NaN counts as 0."""
    if hidden_index is None:
        torch.mul(jacobian, grad[:, None], out=out).masked_fill_((grad == 0)[:, None], 0)
    else:
        member, bounds = _groups(hidden_index, out.shape[0])
        identity = torch.arange(jacobian.shape[0], device=out.device)
        _gather_sum(out, jacobian, grad, member, identity, bounds)


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

    The pull of token k on column v is −a · grad · masses, the push on its label's column b · grad. Where masses are
    made or copied here, pulls are what is rounded to the dtype of the product with the hidden states; saved masses are
    left alone, and a · grad is rounded with the hidden states.

    float16 ends at 2¹⁶ and thins out below 2⁻¹⁴, so its saved masses are copied, and pulls are scaled such that the
    largest gradient comes to the top of the range: every pull is then as exact as plain PyTorch's gradient of a logit,
    but for those of columns with less than 2⁻¹⁴ of a token's largest saved mass.
    """
    m, a, b = (part[: rows.count] for part in state)
    weight = _with_contiguous_rows(head.weight)
    vocab, features = weight.shape
    idle = grad == 0
    scale = _scale_to_top((head.slope * grad).abs())
    alpha = -1 / scale
    pull = (a * (scale * grad)).masked_fill_(idle, 0)
    push = (b * grad).masked_fill_(idle, 0)
    x = rows.gather(0, rows.count).masked_fill(idle[:, None], 0)
    ones = torch.ones_like(push[:, None])
    tiling = backward_tiling(rows.count, vocab, features, weight.element_size(), workspace_mb)
    saved, pulls = masses.shape[0] > 0, None
    if saved and x.dtype != torch.float16:
        x.mul_(pull[:, None])
        column = pull[:, None].to(x.dtype)
    else:
        pulls = torch.empty(rows.count, tiling.width, device=x.device, dtype=x.dtype)
        column = ones.to(x.dtype)
    bias = _wide_bias(head)
    member, bounds = _groups(rows.labels, vocab)
    source = rows.hidden if rows.hidden.stride(1) == 1 else rows.hidden.contiguous()
    identity = torch.arange(rows.count, device=x.device)
    source_row = identity if rows.source is None else rows.source
    for first, last in tiling.slices(vocab):
        if pulls is None:
            part = masses[: rows.count, first:last]
        elif saved:
            part = torch.mul(masses[: rows.count, first:last], pull[:, None], out=pulls[:, : last - first])
        else:
            part = pulls[:, : last - first]
            _recompute(x, weight, rows.labels, bias, m, pull, head, first, last, part)
        here = bounds[first : last + 1]
        if grad_weight is not None:
            base = mm_fp32(part.t(), x)
            _gather_sum(grad_weight[first:last], source, push, member, source_row, here, base, alpha)
        if grad_bias is not None:
            base = mm_fp32(part.t(), column)
            _gather_sum(grad_bias[first:last, None], ones, push, member, identity, here, base, alpha)


def _scale_to_top(magnitudes: Tensor) -> Tensor:
    """The power of two, float32 [], that brings the largest of float32 [K] to 2¹⁴..2¹⁵; float16 ends at 2¹⁶."""
    largest = magnitudes.amax()
    _, exponent = torch.frexp(largest)
    return torch.ldexp(torch.ones_like(largest), (15 - exponent).clamp(-100, 100))


def _recompute(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    m: Tensor,
    pull: Tensor,
    head: Head,
    first: int,
    last: int,
    pulls: Tensor,
) -> None:
    z = _raw_logits(x, weight, bias, first, last)
    grid = (x.shape[0] * triton.cdiv(last - first, kernels.RECOMPUTE_BLOCK),)
    kernels.recompute_kernel[grid](
        z,
        pulls,
        labels,
        m,
        pull,
        z.stride(0),
        pulls.stride(0),
        first,
        last - first,
        head.slope,
        head.ceiling or 0.0,
        SOFTCAP=head.ceiling is not None,
        BLOCK=kernels.RECOMPUTE_BLOCK,
        num_warps=kernels.ROW_WARPS,
    )


def _groups(index: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Members of each value of `index`, in order: group g is member[bounds[g] : bounds[g + 1]]."""
    values, member = index.sort(stable=True)
    return member, torch.searchsorted(values, torch.arange(groups + 1, device=index.device))


def _gather_sum(
    out: Tensor,
    source: Tensor,
    coefficient: Tensor,
    member: Tensor,
    row: Tensor,
    bounds: Tensor,
    base: Tensor | None = None,
    alpha: Tensor | None = None,
) -> None:
    features = out.shape[1]
    grid = (out.shape[0] * triton.cdiv(features, kernels.SUM_BLOCK),)
    kernels.gather_sum_kernel[grid](
        out,
        coefficient if base is None else base,
        coefficient if alpha is None else alpha,
        source,
        coefficient,
        member,
        row,
        bounds,
        source.stride(0),
        features,
        BASE=base is not None,
        MEMBERS=kernels.SUM_MEMBERS,
        BLOCK=kernels.SUM_BLOCK,
        **launch_options(4, kernels.REGISTERS),
    )


def _with_contiguous_rows(weight: Tensor) -> Tensor:
    return weight if weight.stride(1) == 1 else weight.contiguous()


def _wide_bias(head: Head) -> Tensor | None:
    return None if head.bias is None else head.bias.float().contiguous()
