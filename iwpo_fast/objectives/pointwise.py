"""Losses that judge each completion on its own: a term of s_w and a term of s_l."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.limits import NOT_NEGATIVE
from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.registry import Constants, Labels, Reads, State, objective


@objective(
    "nca_pair",
    formula="-log σ(β s_w) - ½ log σ(-β s_w) - ½ log σ(-β s_l)",
    paper="NCA, Chen et al. 2024",
    arxiv="2402.05369",
    source="code",
    transforms=False,
)
def nca_pair(pair: Pair, *, beta: float = 0.1) -> Tensor:
    w, l = beta * pair.chosen.s, beta * pair.rejected.s  # noqa: E741
    return -F.logsigmoid(w) - 0.5 * F.logsigmoid(-w) - 0.5 * F.logsigmoid(-l)


@objective(
    "bco_pair",
    formula="-log σ(β s_w) - log σ(-β s_l)",
    paper="BCO, Jung et al. 2024",
    arxiv="2404.04656",
    source="code",
    transforms=False,
    note="without the shift, as TRL has it since 0.29",
    unpaired=True,
)
def bco_pair(pair: Pair, *, beta: float = 0.1) -> Tensor:
    return pair.over_sides(-F.logsigmoid(beta * pair.chosen.s), -F.logsigmoid(-beta * pair.rejected.s))


def _mean_reward(step: Pair, state: State, rng: np.random.Generator | None, /, **_: Any) -> Constants:
    """Mean of s over all completions of the step."""
    w, l = step.chosen, step.rejected  # noqa: E741
    if w.present is None or l.present is None:
        mean = (w.s.mean() + l.s.mean()) / 2
    else:
        mean = step.over_sides(w.s, l.s).sum() / (w.present.sum() + l.present.sum())
    return {"mean_s": mean.expand(len(step))}


@objective(
    "bco",
    formula="-log σ(β s_w - δ) - log σ(-(β s_l - δ)), δ = mean of β s over the step",
    paper="BCO, Jung et al. 2024",
    arxiv="2404.04656",
    source="code",
    transforms=False,
    note="δ over the global step, where the authors keep a running mean",
    statistics=_mean_reward,
    unpaired=True,
)
def bco(pair: Pair, *, beta: float = 0.1) -> Tensor:
    delta = beta * pair.step["mean_s"]
    desirable = -F.logsigmoid(beta * pair.chosen.s - delta)
    undesirable = -F.logsigmoid(-(beta * pair.rejected.s - delta))
    return pair.over_sides(desirable, undesirable)


@objective(
    "kto",
    limits={"desirable": NOT_NEGATIVE, "undesirable": NOT_NEGATIVE},
    formula="λ_D (1 - σ(β (s_w - z))) + λ_U (1 - σ(β (z - s_l))), z = max(0, mean of s over the step)",
    paper="KTO, Ethayarajh et al. 2024",
    arxiv="2402.01306",
    source="code",
    transforms=False,
    note="z from the step's own completions, not from mismatched ones; a weight multiplies both halves of its pair",
    statistics=_mean_reward,
    unpaired=True,
)
def kto(pair: Pair, *, beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0) -> Tensor:
    z = pair.step["mean_s"].clamp(min=0)
    good = torch.sigmoid(-beta * (pair.chosen.s - z))
    bad = torch.sigmoid(-beta * (z - pair.rejected.s))
    return pair.over_sides(desirable * good, undesirable * bad)


@objective(
    "apo_zero",
    formula="1 - σ(β s_w) + σ(β s_l)",
    paper="APO, D'Oosterlinck et al. 2024",
    arxiv="2408.06266",
    source="code",
    transforms=False,
    unpaired=True,
)
def apo_zero(pair: Pair, *, beta: float = 0.1) -> Tensor:
    return pair.over_sides(torch.sigmoid(-beta * pair.chosen.s), torch.sigmoid(beta * pair.rejected.s))


@objective(
    "apo_down",
    formula="σ(β s_w) + 1 - σ(β h)",
    paper="APO, D'Oosterlinck et al. 2024",
    arxiv="2408.06266",
    source="code",
    transforms=False,
)
def apo_down(pair: Pair, *, beta: float = 0.1) -> Tensor:
    return torch.sigmoid(beta * pair.chosen.s) + torch.sigmoid(-beta * pair.h)


@objective(
    "sppo_hard",
    formula="(s_w - 1/(2β))² + (s_l + 1/(2β))²",
    paper="SPPO, Wu et al. 2024",
    arxiv="2405.00675",
    source="code",
    transforms=False,
)
def sppo_hard(pair: Pair, *, beta: float = 1e-3) -> Tensor:
    return (pair.chosen.s - 0.5 / beta) ** 2 + (pair.rejected.s + 0.5 / beta) ** 2


@objective(
    "sppo",
    formula="½ (s_w - (P - ½)/β)² + ½ (s_l + (P - ½)/β)², P = σ(r_w - r_l)",
    paper="SPPO, Wu et al. 2024",
    arxiv="2405.00675",
    source="code",
    transforms=False,
    reads=Reads.SCORES,
    labels=Labels.UNUSED,
)
def sppo(pair: Pair, *, beta: float = 1e-3) -> Tensor:
    target = (torch.sigmoid(pair.reward_gap) - 0.5) / beta
    return ((pair.chosen.s - target) ** 2 + (pair.rejected.s + target) ** 2) / 2


@objective(
    "gpo",
    formula="(s_w - S_w/β)² + (s_l - S_l/β)², S the score columns",
    paper="general preference optimisation, Zhang et al. 2024, eq. 5.3 with log Z = 0",
    arxiv="2410.02197",
    source="text",
    transforms=False,
    note="not the generalised preference optimisation of 2402.05749",
    reads=Reads.SCORES,
    labels=Labels.UNUSED,
)
def gpo(pair: Pair, *, beta: float = 1e-3) -> Tensor:
    return (pair.chosen.s - pair.chosen.reward / beta) ** 2 + (pair.rejected.s - pair.rejected.reward / beta) ** 2


@objective(
    "gpo_norm",
    formula="(s_w/|y_w| - S_w/β)² + (s_l/|y_l| - S_l/β)², S the score columns",
    paper="length-normalised general preference optimisation, Zhang et al. 2024",
    arxiv="2410.02197",
    source="text",
    transforms=False,
    note="the exponent of the length is 1",
    reads=Reads.SCORES,
    labels=Labels.UNUSED,
)
def gpo_norm(pair: Pair, *, beta: float = 1e-3) -> Tensor:
    chosen, rejected = pair.chosen, pair.rejected
    return (chosen.mean_s - chosen.reward / beta) ** 2 + (rejected.mean_s - rejected.reward / beta) ** 2
