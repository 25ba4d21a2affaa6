"""Direct reward distillation and policy optimisation, after Nath et al. 2024 (arXiv 2410.08458), as understood here.

The policy learns the rewards of an oracle by a head of its own, and preferences by a likelihood term
(docs/systems/drdo.md).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.limits import NOT_NEGATIVE
from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.reference_free import log1mexp
from iwpo_fast.objectives.registry import Reads, objective

_DRDO: dict[str, Any] = {
    "limits": {"alpha": NOT_NEGATIVE, "gamma": NOT_NEGATIVE},
    "paper": "DRDO, Nath et al. 2024",
    "arxiv": "2410.08458",
}
_CONTRAST = "α (1 - p)^γ [m_w - log(1 - exp m_l)], m = l/|y|, p = σ(m_w - m_l)"


@objective(
    "drdo",
    formula=f"(r_w - r_l - (ρ_w - ρ_l))² - {_CONTRAST}",
    **_DRDO,
    source="description",
    note="ρ is the policy's own reward, a linear head on its hidden state at the last token; log-probs per token, as "
    "1 - π(y) of a whole completion is 1",
    implicit="own_reward",
    reads=Reads.SCORES | Reads.OWN_REWARD,
)
def drdo(pair: Pair, *, alpha: float = 0.1, gamma: float = 2.0) -> Tensor:
    return (pair.reward_gap - pair.own_reward_gap) ** 2 - _likelihood(pair, alpha, gamma)


@objective(
    "drdo_reference",
    formula=f"(r_w - r_l - β h)² - {_CONTRAST}",
    **_DRDO,
    source="derived",
    note="`drdo` with β s, relative to a reference, in the place of the policy's own reward; ours",
    reads=Reads.SCORES,
)
def drdo_reference(pair: Pair, *, beta: float = 0.1, alpha: float = 0.1, gamma: float = 2.0) -> Tensor:
    return (pair.reward_gap - beta * pair.h) ** 2 - _likelihood(pair, alpha, gamma)


def _likelihood(pair: Pair, alpha: float, gamma: float) -> Tensor:
    """[P], log of π(y_w) over 1 - π(y_l), counted the less the surer the policy is of the label."""
    w, l = pair.chosen.mean_logp, pair.rejected.mean_logp  # noqa: E741
    focus = torch.exp(gamma * F.logsigmoid(l - w))
    return alpha * focus * (w - log1mexp(l))
