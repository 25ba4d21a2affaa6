"""DPO whose pairs are weighed by the policy's own margin, beside scores (Uni-DPO) or lengths (MWPO)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.limits import FRACTION, NOT_NEGATIVE
from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.registry import Reads, objective


@objective(
    "uni_dpo",
    limits={"eta": NOT_NEGATIVE, "gamma": NOT_NEGATIVE, "nll": NOT_NEGATIVE},
    formula="-σ(η (r_w - r_l)) (1 - σ(β (l_w/|y_w| - l_l/|y_l|) - τ))^γ log σ(β (s_w/|y_w| - s_l/|y_l|)) "
    "- λ [l_w < l_ref,w, r_w ≥ r_0] l_w/|y_w|",
    paper="Uni-DPO, Peng et al. 2026",
    arxiv="2506.10054",
    source="code",
    note="`tau`, `nll` and `good` are τ, λ and r_0; the second factor has gradient, as in the authors' code, whose r_0 "
    "is 7 on a judge's scale and is 0 here, the mean of calibrated scores",
    transforms=False,
    reads=Reads.SCORES,
)
def uni_dpo(
    pair: Pair,
    *,
    beta: float = 2.0,
    eta: float = 0.1,
    tau: float = 0.8,
    gamma: float = 1.0,
    nll: float = 0.01,
    good: float = 0.0,
) -> Tensor:
    quality = torch.sigmoid(eta * pair.reward_gap)
    margin = pair.chosen.mean_logp - pair.rejected.mean_logp
    unlearned = torch.exp(gamma * F.logsigmoid(tau - beta * margin))
    below = (pair.chosen.log_ratio < 0) & (pair.chosen.reward >= good)
    return -quality * unlearned * F.logsigmoid(beta * pair.mean_h) - nll * below * pair.chosen.mean_logp


@objective(
    "mwpo",
    limits={"alpha": FRACTION, "scale": NOT_NEGATIVE, "shorter": NOT_NEGATIVE},
    formula="-ω log σ(β h), ω = σ(k β (s_w/|y_w| - s_l/|y_l|))^α σ(κ (|y_l| - |y_w|))^(1 - α)",
    paper="MWPO, AIR-hl 2025",
    arxiv="",
    source="code",
    note="`scale` and `shorter` are k and κ; ω is detached; the authors' two exponents, 0.625 and 0.375, are one share",
    transforms=False,
)
def mwpo(
    pair: Pair, *, beta: float = 0.01, alpha: float = 0.625, scale: float = 256.0, shorter: float = 0.01
) -> Tensor:
    by_margin = F.logsigmoid(scale * beta * pair.mean_h.detach())
    by_length = F.logsigmoid(shorter * (pair.rejected.tokens - pair.chosen.tokens))
    return -torch.exp(alpha * by_margin + (1 - alpha) * by_length) * F.logsigmoid(beta * pair.h)
