"""`token_logps` in PyTorch, for CPUs, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from iwpo_kernels.constants import IGNORED

ELEMENTS_AT_ONCE = 1 << 20


def forward(logits: Tensor, labels: Tensor, temperature: float, logps: Tensor, state: Tensor) -> None:
    """Writes logps [N], and state [3, N] of exp(z − m) over all columns but the label's, 0 where skipped.

    Its parts are m; (1 − p) / Σ exp(z − m), so that times exp(z_v − m) it is p_v; and 1 − p, for p of the label.
    """
    logps.zero_()
    state.zero_()
    for rows, label in _kept(logits, labels):
        z = _logits_of(logits, rows, temperature)
        label_z = z.gather(1, label)[:, 0]
        m = z.scatter_(1, label, -torch.inf).amax(1)
        m = m.where(m > -torch.inf, 0)
        mass = z.sub_(m[:, None]).exp_().sum(1).clamp_(min=torch.finfo(z.dtype).tiny)
        d = m + mass.log() - label_z
        miss = d.sigmoid()
        logps[rows] = torch.nn.functional.logsigmoid(-d)
        state[:, rows] = torch.stack([m, miss / mass, miss])


def backward(grad: Tensor, logits: Tensor, labels: Tensor, state: Tensor, temperature: float, out: Tensor) -> None:
    """Writes the gradient of logits to `out` [N, V], which may be `logits` itself."""
    if logits is out:
        out[labels == IGNORED] = 0
    else:
        out.zero_()
    for rows, label in _kept(logits, labels):
        m, share, miss = state[:, rows, None]
        slope = grad[rows, None] / temperature
        z = _logits_of(logits, rows, temperature)
        out[rows] = z.sub_(m).exp_().mul_(-slope * share).scatter_(1, label, slope * miss).to(out.dtype)


def _kept(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows that are not skipped, some at a time, with their labels [rows, 1]."""
    kept = (labels != IGNORED).nonzero()[:, 0]
    for rows in kept.split(max(1, ELEMENTS_AT_ONCE // logits.shape[1])):
        yield rows, labels[rows][:, None]


def _logits_of(logits: Tensor, rows: Tensor, temperature: float) -> Tensor:
    return logits[rows].to(torch.promote_types(logits.dtype, torch.float32)).div_(temperature)
