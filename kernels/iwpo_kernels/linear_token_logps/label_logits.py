"""Logits of the labels alone, which with the log-probs give the log-sum-exp of all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_kernels.constants import IGNORED
from iwpo_kernels.linear_token_logps.types import Head, exact_dtype


def label_logits(rows: Tensor, labels: Tensor, head: Head) -> Tensor:
    """z of each label, [N] in float32 (float64 for float64), with gradient; 0 for labels of -100.

    Args:
        rows: [N, H], the hidden state that predicts each label.
        labels: int64 [N].
    """
    wide = exact_dtype(rows.dtype)
    served = labels != IGNORED
    column = labels.clamp(0, head.weight.shape[0] - 1)
    with torch.autocast(rows.device.type, enabled=False):
        weight = F.embedding(column, head.weight)  # whose gradient repeats bitwise, which that of an index does not
        rows = rows.where(served[:, None], 0)  # no gradient of theirs is that of a number that is not finite
        z = (rows.to(wide) * weight.to(rows.dtype).to(wide)).sum(-1)
        if head.bias is not None:
            z = z + head.bias.to(wide)[column]
        z = z * head.scale
        if head.softcap is not None:
            z = head.softcap * torch.tanh(z / head.softcap)
        return (z / head.temperature).where(served, 0)
