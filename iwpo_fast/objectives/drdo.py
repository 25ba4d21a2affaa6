"""Direct reward distillation and policy optimisation, after Nath et al. 2024 (arXiv 2410.08458)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.limits import NOT_NEGATIVE
from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.reference_free import log1mexp
from iwpo_fast.objectives.registry import Reads, objective


@objective(
    "drdo",
    limits={"alpha": NOT_NEGATIVE, "gamma": NOT_NEGATIVE},
    formula="(r_w - r_l - β h)² - α (1 - p)^γ [m_w - log(1 - exp m_l)], m = l/|y|, p = σ(m_w - m_l)",
    paper="DRDO, Nath et al. 2024",
    arxiv="2410.08458",
    source="description",
    note="log-probs per token, as 1 - π(y) of a whole completion is 1; the student's reward is β s",
    reads=Reads.SCORES,
)
def drdo(pair: Pair, *, beta: float = 0.1, alpha: float = 0.1, gamma: float = 2.0) -> Tensor:
    distilled = (pair.reward_gap - beta * pair.h) ** 2
    w, l = pair.chosen.mean_logp, pair.rejected.mean_logp  # noqa: E741
    focus = torch.exp(gamma * F.logsigmoid(l - w))
    return distilled - alpha * focus * (w - log1mexp(l))
