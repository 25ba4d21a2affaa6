"""Soft preference optimisation, after Sharifnassab et al. 2024 (arXiv 2405.00747), as understood here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.limits import NOT_NEGATIVE, POSITIVE
from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.rankings import ORDERED, plackett_luce, without_absent
from iwpo_fast.objectives.registry import Reads, objective

LIMITS = {"alpha": POSITIVE, "mu": NOT_NEGATIVE}


@objective(
    "spo",
    limits=LIMITS,
    formula="-(μ/α) log σ(α (l_w - l_l)) + β (s_w² + s_l²)/4",
    paper="SPO, Sharifnassab et al. 2024",
    arxiv="2405.00747",
    source="description",
    transforms=False,
    note=(
        "an approximation: the paper's KL(π ‖ π_ref) is over samples of the policy; its gradient E[s ∇ log π], taken "
        "over the data's completions, is that of s²/2. `mu` as of `spo_pairs`"
    ),
)
def spo(pair: Pair, *, alpha: float = 0.1, beta: float = 0.01, mu: float = 0.0) -> Tensor:
    preference = soft_preference(pair, alpha, mu)
    return preference + beta * (pair.chosen.log_ratio**2 + pair.rejected.log_ratio**2) / 4


@objective(
    "spo_pairs",
    limits=LIMITS,
    formula="-(μ/α) log σ(α (l_w - l_l)), μ = exp(m (l_w/|y_w| + l_l/|y_l|)/2)",
    paper="SPO, Sharifnassab et al. 2024",
    arxiv="2405.00747",
    source="description",
    implicit="logp",
    note=(
        "without its KL, which the setting `sampled_kl` adds (systems/spo.md). `mu` is m; μ is detached, and 1 at "
        "`mu` 0. That it is symmetric and small for pairs that the policy finds improbable is the paper's; its form not"
    ),
)
def spo_pairs(pair: Pair, *, alpha: float = 0.1, mu: float = 0.0) -> Tensor:
    return soft_preference(pair, alpha, mu)


@objective(
    "spo_best",
    limits={"alpha": POSITIVE},
    formula="-(1/α) log softmax(α l)_w over all candidates of the row",
    paper="SPO, Sharifnassab et al. 2024",
    arxiv="2405.00747",
    source="description",
    implicit="logp",
    reads=Reads.CANDIDATES | Reads.ORDER,
    one_sided=ORDERED,
    note="best of n: only which candidate has the highest score counts",
)
def spo_best(pair: Pair, *, alpha: float = 0.1) -> Tensor:
    logps, there = pair.in_order()
    return best_of(logps, torch.zeros_like(logps[:, 0], dtype=torch.int64), alpha, there)


@objective(
    "spo_ranked",
    limits={"alpha": POSITIVE},
    formula="-(1/α) Σ_k log softmax(α (l_k, …, l_K))_k, candidates of the row from the best to the worst",
    paper="SPO, Sharifnassab et al. 2024",
    arxiv="2405.00747",
    source="description",
    implicit="logp",
    reads=Reads.CANDIDATES | Reads.ORDER,
    one_sided=ORDERED,
    note="the whole order by scores (Plackett-Luce); equal scores as they came",
)
def spo_ranked(pair: Pair, *, alpha: float = 0.1) -> Tensor:
    logps, there = pair.in_order()
    return ranked(logps, alpha, there)


def soft_preference(pair: Pair, alpha: float, mu: float) -> Tensor:
    """[P], -(μ/α) log σ(α (l_w - l_l)); under Bradley-Terry least where π ∝ exp(r/α), whatever μ > 0 is."""
    preference = -F.logsigmoid(alpha * (pair.chosen.logp - pair.rejected.logp)) / alpha
    return preference if mu == 0 else plausibility(pair, mu) * preference


def plausibility(pair: Pair, mu: float) -> Tensor:
    """[P], μ: the geometric mean of the probabilities that the policy gives to a token of either, to the power `mu`."""
    mean = (pair.chosen.mean_logp + pair.rejected.mean_logp) / 2
    return torch.exp(mu * mean.detach())


def best_of(logps: Tensor, best: Tensor, alpha: float, there: Tensor | None = None) -> Tensor:
    """[P], -(1/α) log softmax(α l)_best: one of the K completions to each prompt was chosen as the best of them.

    Args:
        logps: [P, K], l.
        best: int64 [P], which one.
        there: bool [P, K], which completions there are, the best among them; None where all are.
    """
    scaled = without_absent(alpha * logps, there)
    return (scaled.logsumexp(-1) - scaled.gather(-1, best[:, None])[:, 0]) / alpha


def ranked(logps: Tensor, alpha: float, there: Tensor | None = None) -> Tensor:
    """[P], -(1/α) Σ_k log softmax(α (l_k, ..., l_K))_k: completions to each prompt were put in order (Plackett-Luce).

    With two completions it is the loss of a pair.

    Args:
        logps: [P, K], l, from the best to the worst.
        there: bool [P, K], which completions there are; None where all are.
    """
    return plackett_luce(alpha * logps, there) / alpha
