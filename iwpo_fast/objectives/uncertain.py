"""Uncertainty-penalised DPO: pairs on which a family of reward models disagrees pull less.

After Houliston et al. 2024 (arXiv 2410.20187), whose full text was not at hand; u is the standard deviation over the
reward models. Attenuation is + inside the sigmoid: a minus would be a target margin and pull more.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.limits import NOT_NEGATIVE, POSITIVE
from iwpo_fast.objectives.pair import Pair, Scores, uncertainty
from iwpo_fast.objectives.registry import FusedForm, Reads, objective

_PAPER: dict[str, Any] = {
    "paper": "uncertainty-penalised DPO, Houliston et al. 2024",
    "arxiv": "2410.20187",
    "source": "description",
    "reads": Reads.SCORES | Reads.FAMILY,
}


@objective("up_dpo_lcb", formula="-log σ(β h + u_w - u_l), u = std of r over the models", **_PAPER)
def up_dpo_lcb(pair: Pair, *, beta: float = 0.1) -> Tensor:
    return -F.logsigmoid(beta * pair.h + uncertainty(pair.chosen.family) - uncertainty(pair.rejected.family))


def _attenuated(scores: Scores, *, beta: float, strength: float) -> FusedForm:
    chosen, rejected = scores
    return {"form": "sigmoid", "beta": beta, "margin": -strength * uncertainty(chosen - rejected)}


@objective(
    "up_dpo_pair",
    limits={"strength": NOT_NEGATIVE},
    formula="-log σ(β h + c u), u = std of r_w - r_l over the models",
    fused=_attenuated,
    **_PAPER,
)
def up_dpo_pair(pair: Pair, *, beta: float = 0.1, strength: float = 1.0) -> Tensor:
    return -F.logsigmoid(beta * pair.h + strength * uncertainty(pair.family_gaps))


@objective(
    "up_dpo_energy",
    limits={"tau": POSITIVE},
    formula="-exp(-u/τ) log σ(β h), u = std of r_w - r_l over the models",
    **_PAPER,
)
def up_dpo_energy(pair: Pair, *, beta: float = 0.1, tau: float = 1.0) -> Tensor:
    return -torch.exp(-uncertainty(pair.family_gaps) / tau) * F.logsigmoid(beta * pair.h)


@objective(
    "up_ipo",
    limits={"tau": POSITIVE},
    formula="(h - exp(-u/τ)/(2β))², u = std of r_w - r_l over the models",
    **_PAPER,
)
def up_ipo(pair: Pair, *, beta: float = 0.1, tau: float = 1.0) -> Tensor:
    return (pair.h - torch.exp(-uncertainty(pair.family_gaps) / tau) / (2 * beta)) ** 2
