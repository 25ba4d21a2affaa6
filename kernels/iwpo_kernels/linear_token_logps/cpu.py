"""The streamed operator in PyTorch, for CPUs; accumulates in float32 (float64 for float64 inputs)."""

from __future__ import annotations

import torch
from torch import Tensor

from iwpo_kernels.constants import LOWEST, SLACK
from iwpo_kernels.linear_token_logps import tiling
from iwpo_kernels.linear_token_logps.types import Forward, Head, Rows, exact_dtype


class _RowState:
    """Running sums of one tile of R rows; the label's column is in none of them."""

    def __init__(self, rows: int, like: Tensor) -> None:
        self.m = like.new_full((rows,), -torch.inf)  # reference of the exponentials
        self.mass = like.new_zeros(rows)  # Σ exp(z − m)
        self.label_z = like.new_zeros(rows)
        self.label_slope = like.new_ones(rows)  # f' at the label
        self.top = like.new_full((rows,), -torch.inf)
        self.mass_z = like.new_zeros(rows)  # Σ exp(z − m) (z − m)
        self.mass2 = like.new_zeros(rows)  # Σ exp(z − m)²
        self.total_z = like.new_zeros(rows)  # Σ z

    def raise_reference(self, top: Tensor) -> Tensor | None:
        """Moves m where the slack is exceeded; factor [R] for earlier masses, or None where none moves."""
        moves = (top > self.m + SLACK) | ((self.m == -torch.inf) & (top > -torch.inf))
        if not moves.any():
            return None
        m = top.where(moves, self.m)
        shift = (self.m - m).where(self.m > -torch.inf, 0)
        factor = shift.exp()
        self.mass_z = factor * (self.mass_z + self.mass * shift)
        self.mass2 *= factor.square()
        self.mass *= factor
        self.m = m
        return factor


def forward(rows: Rows, head: Head, out: Forward, workspace_mb: int) -> None:
    """Fills `out` for the kept tokens; the others keep the zeros they have."""
    vocab = head.weight.shape[0]
    tile = tiling.cpu_tiling(min(rows.count, tiling.CPU_ROWS), vocab, out.logps.element_size(), workspace_mb)
    for start, end in tile.row_ranges(rows.count):
        _forward_tile(rows, head, out, start, end, tile.slices(vocab))


def _forward_tile(rows: Rows, head: Head, out: Forward, start: int, end: int, slices: list[tuple[int, int]]) -> None:
    dtype = exact_dtype(rows.hidden.dtype)
    x = _scaled(rows.gather(start, end).to(dtype), head.slope)
    labels = rows.labels[start:end]
    state = _RowState(end - start, x)
    wants_jacobian, saves, wants_statistics = out.makes_jacobian, out.saves_masses, out.makes_statistics
    in_place = wants_jacobian and rows.position is None
    acc = x.new_empty(x.shape if wants_jacobian and not in_place else 0)
    if in_place:
        acc = out.jacobian[start:end]
    acc.zero_()
    for first, last in slices:
        weight = head.weight[first:last].to(rows.hidden.dtype).to(dtype)
        z = _logits(x, weight, head, first, last, out.masses[start:end, first:last] if saves else None)
        slope = _cap(z, head.ceiling)
        row, column = _labels_in(labels, first, last)
        state.label_z[row] = z[row, column]
        if slope is not None:
            state.label_slope[row] = slope[row, column]
        if wants_statistics:
            state.total_z += z.sum(1)
        z[row, column] = -torch.inf
        top = z.amax(1)
        factor = state.raise_reference(top)
        if factor is not None:
            if wants_jacobian:
                acc.mul_(factor[:, None])
            if saves:
                out.masses[start:end, :first].mul_(factor[:, None])
        z.sub_(state.m.where(state.m > -torch.inf, 0)[:, None])
        if wants_statistics:
            state.top = state.top.maximum(top)
            state.mass_z += _dot(z)
        z.exp_()
        state.mass += z.sum(1)
        if wants_statistics:
            state.mass2 += z.square().sum(1)
        if slope is not None:
            z.mul_(slope)
        if wants_jacobian:
            acc.addmm_(z, weight)
    _finish(rows, head, out, start, end, state, acc)


def _finish(rows: Rows, head: Head, out: Forward, start: int, end: int, state: _RowState, acc: Tensor) -> None:
    """Results of one tile. With d the log-odds against the label, log p = −softplus(d) and 1 − p = σ(d)."""
    state.m = state.m.where(state.m > -torch.inf, 0)
    state.mass.clamp_(min=torch.finfo(state.mass.dtype).tiny)
    d = state.m + state.mass.log() - state.label_z
    miss = d.sigmoid()
    position = slice(start, end) if rows.position is None else rows.position[start:end]
    out.logps[position] = torch.nn.functional.logsigmoid(-d)
    a = head.slope * miss / state.mass
    b = head.slope * miss * state.label_slope
    out.state[:, start:end] = torch.stack([state.m, a, b])
    if out.makes_statistics:
        out.statistics[:, position] = _statistics(state, d, head.weight.shape[0])
    if out.makes_jacobian:
        label_rows = head.weight.index_select(0, rows.labels[start:end]).to(rows.hidden.dtype).to(acc.dtype)
        acc.mul_(-a[:, None]).addcmul_(label_rows, b[:, None])
        if rows.position is not None:
            out.jacobian[position] = acc


def _statistics(state: _RowState, d: Tensor, vocab: int) -> Tensor:
    """[4, R]: the label on one side, the distribution of all others, which has probability σ(d), on the other."""
    log_p, log_miss = torch.nn.functional.logsigmoid(-d), torch.nn.functional.logsigmoid(d)
    p, miss = log_p.exp(), log_miss.exp()
    others = state.mass.log() - state.mass_z / state.mass
    entropy = miss * (others - log_miss) - p * log_p
    sum_p2 = p.square() + miss.square() * state.mass2 / state.mass.square()
    return torch.stack([entropy, sum_p2, (state.label_z >= state.top).to(d.dtype), state.total_z / vocab])


def hidden_gradient(grad: Tensor, jacobian: Tensor, hidden_index: Tensor | None, out: Tensor) -> None:
    """out [T, H] ← sum of grad_n · jacobian_n over the tokens n of each row; 0 · NaN counts as 0."""
    if hidden_index is None:
        torch.mul(jacobian, grad[:, None], out=out).masked_fill_((grad == 0)[:, None], 0)
        return
    active = grad.nonzero()[:, 0]
    product = jacobian.index_select(0, active).mul_(grad[active, None])
    total = out if out.dtype == product.dtype else torch.empty_like(out, dtype=product.dtype)
    total.zero_().index_add_(0, hidden_index[active], product)
    if total is not out:
        out.copy_(total)


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
    """Writes the gradients of the head; `grad` [K] is that of the kept log-probs. Tokens where it is 0 take no part."""
    dtype = exact_dtype(rows.hidden.dtype)
    saved = masses.shape[0] > 0
    active = grad.nonzero()[:, 0]
    some = active.shape[0] < rows.count
    if some:
        source = active if rows.source is None else rows.source[active]
        rows, grad, state = Rows(rows.hidden, rows.labels[active], source, None), grad[active], state[:, active]
    m, a, b = (part[: rows.count] for part in state)
    x = rows.gather(0, rows.count).to(dtype)
    pull, push = -(a * grad)[:, None], (b * grad)[:, None]
    scaled_x = x if saved else _scaled(x, head.slope)
    pulled_x = pull * x
    vocab = head.weight.shape[0]
    for first, last in tiling.cpu_tiling(rows.count, vocab, dtype.itemsize, workspace_mb).slices(vocab):
        row, column = _labels_in(rows.labels, first, last)
        if saved:
            part_masses = masses[active, first:last] if some else masses[: rows.count, first:last]
        else:
            weight = head.weight[first:last].to(rows.hidden.dtype).to(dtype)
            part_masses = _recomputed(scaled_x, weight, head, m, first, last, row, column)
        if grad_weight is not None:
            part = grad_weight[first:last] if grad_weight.dtype == dtype else x.new_empty(last - first, x.shape[1])
            torch.mm(part_masses.t(), pulled_x, out=part)
            part.index_add_(0, column, push[row] * x[row])
            if part.dtype != grad_weight.dtype:
                grad_weight[first:last] = part
        if grad_bias is not None:
            sums = (part_masses.t() @ pull)[:, 0]
            grad_bias[first:last] = sums.index_add_(0, column, push[row, 0])


def _recomputed(
    scaled_x: Tensor, weight: Tensor, head: Head, m: Tensor, first: int, last: int, row: Tensor, column: Tensor
) -> Tensor:
    z = _logits(scaled_x, weight, head, first, last, None)
    slope = _cap(z, head.ceiling)
    z[row, column] = -torch.inf
    z.sub_(m[:, None]).exp_()
    return z if slope is None else z.mul_(slope)


def _logits(x: Tensor, weight: Tensor, head: Head, first: int, last: int, out: Tensor | None) -> Tensor:
    """slope · (h Wᵀ + b) of one slice, given x = slope · h."""
    z = torch.mm(x, weight.t()) if out is None else torch.mm(x, weight.t(), out=out)
    if head.bias is not None:
        z.add_(_scaled(head.bias[first:last].to(z.dtype), head.slope))
    return z


def _cap(z: Tensor, ceiling: float | None) -> Tensor | None:
    """z ← c · tanh(z / c) in place; the derivative at each element, or None without a softcap."""
    if ceiling is None:
        return None
    tanh = z.div_(ceiling).tanh_()
    slope = tanh.square().neg_().add_(1)
    tanh.mul_(ceiling)
    return slope


def _dot(log_mass: Tensor) -> Tensor:
    """Σ exp(y) · y per row, with 0 for y = −∞."""
    return (log_mass.exp() * log_mass.clamp(min=LOWEST)).sum(1)


def _labels_in(labels: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Rows whose label lies in columns first..last, and where in that slice."""
    row = ((labels >= first) & (labels < last)).nonzero()[:, 0]
    return row, labels[row] - first


def _scaled(values: Tensor, factor: float) -> Tensor:
    return values if factor == 1.0 else values * factor
