"""Soft preference optimisation, after Sharifnassab et al. 2024 (arXiv 2405.00747)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.limits import POSITIVE
from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.registry import objective


@objective(
    "spo",
    limits={"alpha": POSITIVE},
    formula="-(1/α) log σ(α (l_w - l_l)) + β (s_w² + s_l²)/4",
    paper="SPO, Sharifnassab et al. 2024",
    arxiv="2405.00747",
    source="description",
    transforms=False,
    note=(
        "an approximation: the paper's KL(π ‖ π_ref) is over samples of the policy; its gradient E[s ∇ log π], taken "
        "over the data's completions, is that of s²/2"
    ),
)
def spo(pair: Pair, *, alpha: float = 0.1, beta: float = 0.01) -> Tensor:
    preference = -F.logsigmoid(alpha * (pair.chosen.logp - pair.rejected.logp)) / alpha
    return preference + beta * (pair.chosen.log_ratio**2 + pair.rejected.log_ratio**2) / 4
