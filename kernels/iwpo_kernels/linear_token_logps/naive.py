"""The specification of `linear_token_logps`: all logits at once, differentiated by autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iwpo_kernels.constants import IGNORED
from iwpo_kernels.linear_token_logps.types import TokenStatistics


def naive_linear_token_logps(
    hidden: Tensor,
    head_weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    hidden_index: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """`linear_token_logps`, with the same arguments, in plain PyTorch and in the precision of the hidden states."""
    kept = labels != IGNORED
    log_p = _logits(hidden, head_weight, kept, bias, hidden_index, softcap, scale, temperature).log_softmax(-1)
    return log_p.gather(1, labels.where(kept, 0)[:, None])[:, 0].where(kept, 0)


def naive_linear_token_statistics(
    hidden: Tensor, head_weight: Tensor, labels: Tensor, *, log_sum_exp: bool = False, **options: Any
) -> TokenStatistics:
    """`linear_token_statistics` likewise."""
    logps = naive_linear_token_logps(hidden, head_weight, labels, **options)
    kept = labels != IGNORED
    defaults = {"bias": None, "hidden_index": None, "softcap": None, "scale": 1.0, "temperature": 1.0}
    z = _logits(hidden, head_weight, kept, **(defaults | options))
    normalizer = z.logsumexp(-1).where(kept, 0) if log_sum_exp else None
    with torch.no_grad():
        log_p = z.log_softmax(-1)
        p = log_p.exp()
        return TokenStatistics(
            logps=logps,
            entropy=-(p * log_p.masked_fill(p == 0, 0)).sum(-1).where(kept, 0),
            sum_p2=p.square().sum(-1).where(kept, 0),
            target_is_argmax=(z.gather(1, labels.where(kept, 0)[:, None])[:, 0] >= z.amax(-1)) & kept,
            mean_logit=z.mean(-1).where(kept, 0),
            log_sum_exp=normalizer,
        )


def _logits(
    hidden: Tensor,
    head_weight: Tensor,
    kept: Tensor,
    bias: Tensor | None,
    hidden_index: Tensor | None,
    softcap: float | None,
    scale: float,
    temperature: float,
) -> Tensor:
    """softcap(scale · (h Wᵀ + b)) / temperature, [N, V], rounded to float32 or finer after the product."""
    rows = (hidden if hidden_index is None else hidden[hidden_index]).where(kept[:, None], 0)
    z = torch.nn.functional.linear(rows, head_weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype))
    z = z.to(torch.promote_types(z.dtype, torch.float32)) * scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    return z / temperature
