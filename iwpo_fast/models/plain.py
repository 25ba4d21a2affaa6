"""Stand-in for `iwpo_kernels.linear_token_logps` in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_token_logps(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    hidden_index: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
) -> Tensor:
    """float32 [N] log-probs of labels [N]; rows `hidden_index` of hidden [T, H] meet weight [V, H]."""
    rows = hidden if hidden_index is None else hidden[hidden_index]
    logits = scale * (rows @ weight.T).float()
    if bias is not None:
        logits = logits + bias.float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
