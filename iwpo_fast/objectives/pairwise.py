"""Losses of the margin h = s_w - s_l between the log-ratios of chosen and rejected completion, one value per pair."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def sigmoid(h: Tensor, beta: float) -> Tensor:
    """DPO, -log sigmoid(beta h), with h of summed log-probs (Rafailov et al. 2023, arXiv 2305.18290, eq. 7)."""
    return -F.logsigmoid(beta * h)


def ipo(h: Tensor, beta: float) -> Tensor:
    """IPO, (h - 1 / (2 beta))^2 (Azar et al. 2023, arXiv 2310.12036, eq. 17, with tau = beta).

    h is of log-probs averaged over completion tokens, as the authors confirmed for TRL's implementation.
    """
    return (h - 1 / (2 * beta)) ** 2
