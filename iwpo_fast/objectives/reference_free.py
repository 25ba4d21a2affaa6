"""Objectives without a reference model, and the likelihood term that others are mixed with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.limits import NOT_NEGATIVE
from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.registry import Constants, State, objective

LARGEST_MEAN_LOGP = -1e-7  # where log(1 - p) and its gradient are still finite


def _mean_lengths(step: Pair, state: State, rng: np.random.Generator | None, /, **_: Any) -> Constants:
    return {"mean_chosen_tokens": step.chosen.tokens.mean().expand(len(step))}


@objective(
    "sft",
    formula="-l_w / mean of |y_w| over the step",
    paper="maximum likelihood of the chosen completions",
    arxiv="",
    source="code",
    note="the step's sum is the mean over all its chosen tokens",
    implicit="logp",
    statistics=_mean_lengths,
    from_data=True,
)
def sft(pair: Pair) -> Tensor:
    return -pair.chosen.logp / pair.step["mean_chosen_tokens"]


def _flipped_simpo(pair: Pair, *, beta: float, gamma: float) -> Tensor:
    """The whole argument turned around, margin and all, as its authors, TRL and Liger smooth labels."""
    return -F.logsigmoid(gamma - beta * (pair.chosen.mean_logp - pair.rejected.mean_logp))


@objective(
    "simpo",
    limits={"gamma": NOT_NEGATIVE},
    formula="-log σ(β (l_w/|y_w| - l_l/|y_l|) - γ)",
    paper="SimPO, Meng et al. 2024",
    arxiv="2405.14734",
    source="code",
    note="γ itself, not the ratio γ/β; a flipped label turns margin and γ around",
    implicit="mean_logp",
    flipped=_flipped_simpo,
)
def simpo(pair: Pair, *, beta: float = 2.0, gamma: float = 0.5) -> Tensor:
    return -F.logsigmoid(beta * (pair.chosen.mean_logp - pair.rejected.mean_logp) - gamma)


@objective(
    "cpo",
    limits={"alpha": NOT_NEGATIVE},
    formula="-log σ(β (l_w - l_l)) - α l_w / mean of |y_w| over the step",
    paper="CPO, Xu et al. 2024",
    arxiv="2401.08417",
    source="code",
    implicit="logp",
    statistics=_mean_lengths,
    from_data=True,
)
def cpo(pair: Pair, *, beta: float = 0.1, alpha: float = 1.0) -> Tensor:
    return -F.logsigmoid(beta * (pair.chosen.logp - pair.rejected.logp)) + alpha * sft(pair)


@objective(
    "orpo",
    formula="-l_w/|y_w| - β log σ(logit p_w - logit p_l), p = exp(l/|y|)",
    paper="ORPO, Hong et al. 2024",
    arxiv="2403.07691",
    source="code",
    note="likelihood of the completion only; β is the paper's λ",
    implicit="mean_logp",
)
def orpo(pair: Pair, *, beta: float = 0.1) -> Tensor:
    log_odds = mean_log_odds(pair.chosen.mean_logp) - mean_log_odds(pair.rejected.mean_logp)
    return -pair.chosen.mean_logp - beta * F.logsigmoid(log_odds)


def mean_log_odds(mean_logp: Tensor) -> Tensor:
    """log p - log(1 - p) of p = exp(mean_logp)."""
    return mean_logp - log1mexp(mean_logp)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, accurate at both ends; x above -1e-7 counts as that (Mächler 2012)."""
    x = x.clamp(max=LARGEST_MEAN_LOGP)
    near = x > -0.6931471805599453
    # The branch not taken must not give NaN gradients.
    small, large = x.where(near, -1.0), x.where(~near, -1.0)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))
