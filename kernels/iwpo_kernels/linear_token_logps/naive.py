"""The specification of `linear_token_logps`: all logits at once, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from iwpo_kernels.constants import IGNORED
from iwpo_kernels.linear_token_logps.types import TokenLogps


def naive_linear_token_logps(
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
) -> Tensor | TokenLogps:
    """`linear_token_logps`, with the same arguments, in plain PyTorch and in the precision of the hidden states.

    z = softcap(scale · (h Wᵀ + b)) / temperature, [N, V], is rounded to float32 or finer after the product.
    """
    kept = labels != IGNORED
    rows = (hidden if hidden_index is None else hidden[hidden_index]).where(kept[:, None], 0)
    z = torch.nn.functional.linear(rows, weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype))
    z = z.to(torch.promote_types(z.dtype, torch.float32)) * scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    z = z / temperature
    target = labels.where(kept, 0)[:, None]
    log_p = z.log_softmax(-1)
    logps = log_p.gather(1, target)[:, 0].where(kept, 0)
    if not stats:
        return logps
    with torch.no_grad():
        p = log_p.exp()
        return TokenLogps(
            logps=logps,
            entropy=-(p * log_p.masked_fill(p == 0, 0)).sum(-1).where(kept, 0),
            sum_p2=p.square().sum(-1).where(kept, 0),
            target_is_argmax=(z.gather(1, target)[:, 0] >= z.amax(-1)) & kept,
            mean_logit=z.mean(-1).where(kept, 0),
        )
