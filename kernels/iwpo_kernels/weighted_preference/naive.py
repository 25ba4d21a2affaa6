"""The specification of `weighted_preference_loss`: sequence by sequence, differentiated by autograd."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def naive_weighted_preference_loss(
    logps: Tensor,
    segments: Tensor,
    ref_logps: Tensor | None = None,
    pair_weights: Tensor | None = None,
    *,
    form: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: Tensor | float | None = None,
    margin: Tensor | float | None = None,
    target: Tensor | float | None = None,
    average: bool = False,
    lengths: Tensor | None = None,
    denominator: Tensor | float | None = None,
) -> Tensor:
    """Loss of `weighted_preference_loss`, with the same arguments, in plain PyTorch and the precision of logps."""
    parts = [logps[start:end] for start, end in pairwise(segments.tolist())]
    scores = torch.stack([part.sum() for part in parts])
    if ref_logps is not None:
        scores = scores - ref_logps
    if average:
        counts = [len(part) for part in parts] if lengths is None else lengths.tolist()
        scores = scores / torch.tensor(counts, dtype=scores.dtype, device=scores.device).clamp(min=1)
    chosen, rejected = scores.chunk(2)
    h = chosen - rejected

    def objective(h: Tensor) -> Tensor:
        if form == "sigmoid":
            return -F.logsigmoid(beta * h - (0 if margin is None else margin))
        if form == "squared":
            return (h - 1 / (2 * beta)) ** 2 if target is None else (beta * h - target) ** 2
        return torch.relu(1 - beta * h)

    losses = objective(h)
    if label_smoothing is not None:
        never = torch.as_tensor(label_smoothing, device=h.device) == 0  # then an infinite loss of the other has no part
        losses = (1 - label_smoothing) * losses + torch.where(never, 0, label_smoothing * objective(-h))
    if pair_weights is not None:
        losses = torch.where(pair_weights == 0, 0, pair_weights * losses)
    return losses.sum() / (len(h) if denominator is None else denominator)
