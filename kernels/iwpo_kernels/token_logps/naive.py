"""The specification of `token_logps`, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from iwpo_kernels.constants import IGNORED


def naive_token_logps(logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> Tensor:
    """`token_logps` in plain PyTorch, in float32 or finer."""
    kept = labels != IGNORED
    z = logits.where(kept[:, None], 0).to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return z.log_softmax(-1).gather(1, labels.where(kept, 0)[:, None])[:, 0].where(kept, 0)
