"""Losses of the margin h = s_w - s_l between the log-ratios of chosen and rejected completion."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.limits import FLIP_RATE, FRACTION, POSITIVE, Limits
from iwpo_fast.objectives.divergence import safe_exp
from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.registry import Reads, objective


@objective(
    "sigmoid",
    formula="-log σ(β h)",
    paper="DPO, Rafailov et al. 2023",
    arxiv="2305.18290",
    source="code",
    fused=lambda _, beta: {"form": "sigmoid", "beta": beta},
)
def sigmoid(pair: Pair, *, beta: float = 0.1) -> Tensor:
    return -F.logsigmoid(beta * pair.h)


@objective(
    "cdpo",
    limits={"epsilon": FLIP_RATE},
    formula="-(1 - ε) log σ(β h) - ε log σ(-β h)",
    paper="conservative DPO, Mitchell 2023",
    arxiv="",
    source="code",
    note="the same as sigmoid with objective.label_smoothing",
)
def cdpo(pair: Pair, *, beta: float = 0.1, epsilon: float = 0.1) -> Tensor:
    x = beta * pair.h
    return -(1 - epsilon) * F.logsigmoid(x) - epsilon * F.logsigmoid(-x)


@objective(
    "robust",
    limits={"epsilon": FLIP_RATE},
    formula="[-(1 - ε) log σ(β h) + ε log σ(-β h)] / (1 - 2ε)",
    paper="robust DPO, Chowdhury et al. 2024",
    arxiv="2403.00409",
    source="code",
    note="unbiased under a flip rate ε; not bounded below",
)
def robust(pair: Pair, *, beta: float = 0.1, epsilon: float = 0.1) -> Tensor:
    x = beta * pair.h
    return (-(1 - epsilon) * F.logsigmoid(x) + epsilon * F.logsigmoid(-x)) / (1 - 2 * epsilon)


@objective(
    "hinge",
    formula="max(0, 1 - β h)",
    paper="SLiC, Zhao et al. 2023; RSO, Liu et al. 2023",
    arxiv="2309.06657",
    source="code",
    fused=lambda _, beta: {"form": "hinge", "beta": beta},
)
def hinge(pair: Pair, *, beta: float = 0.1) -> Tensor:
    return torch.relu(1 - beta * pair.h)


@objective(
    "ipo",
    formula="(s_w/|y_w| - s_l/|y_l| - 1/(2β))²",
    paper="IPO, Azar et al. 2023",
    arxiv="2310.12036",
    source="code",
    note="averaged over tokens, as the authors confirmed for TRL",
    fused=lambda _, beta: {"form": "squared", "beta": beta, "average": True},
)
def ipo(pair: Pair, *, beta: float = 0.1) -> Tensor:
    return (pair.mean_h - 1 / (2 * beta)) ** 2


@objective(
    "ipo_sum",
    formula="(h - 1/(2β))²",
    paper="IPO, Azar et al. 2023, eq. 17",
    arxiv="2310.12036",
    source="code",
    note="summed over tokens, as in the paper",
    fused=lambda _, beta: {"form": "squared", "beta": beta},
)
def ipo_sum(pair: Pair, *, beta: float = 0.1) -> Tensor:
    return (pair.h - 1 / (2 * beta)) ** 2


@objective(
    "sigmoid_norm",
    formula="-log σ(β (s_w/|y_w| - s_l/|y_l|))",
    paper="length-normalised DPO, Tülu 3, Lambert et al. 2024",
    arxiv="2411.15124",
    source="code",
    fused=lambda _, beta: {"form": "sigmoid", "beta": beta, "average": True},
)
def sigmoid_norm(pair: Pair, *, beta: float = 0.1) -> Tensor:
    return -F.logsigmoid(beta * pair.mean_h)


@objective(
    "exo_pair",
    limits={"epsilon": Limits(0, 0.5, low_open=True, high_open=True)},
    formula="KL(Ber(q) ‖ Ber(1 - ε)), q = σ(β h)",
    paper="EXO, Ji et al. 2024",
    arxiv="2402.00856",
    source="code",
)
def exo_pair(pair: Pair, *, beta: float = 0.1, epsilon: float = 1e-3) -> Tensor:
    x = beta * pair.h
    q, log_q, log_not_q = torch.sigmoid(x), F.logsigmoid(x), F.logsigmoid(-x)
    return q * (log_q - math.log1p(-epsilon)) + (1 - q) * (log_not_q - math.log(epsilon))


@objective(
    "discopop",
    limits={"tau": POSITIVE},
    formula="(1 - g)(-log σ(z)) + g exp(-z), z = β h, g = σ(z/τ)",
    paper="DiscoPOP, Lu et al. 2024",
    arxiv="2406.08414",
    source="code",
)
def discopop(pair: Pair, *, beta: float = 0.05, tau: float = 0.05) -> Tensor:
    z = beta * pair.h
    # exp(-z) is huge exactly where its gate is tiny: one exponential of both stays finite.
    gated = safe_exp(F.logsigmoid(z / tau) - z)
    return torch.sigmoid(-z / tau) * -F.logsigmoid(z) + gated


@objective(
    "r_dpo",
    formula="-log σ(β h + α (|y_w| - |y_l|))",
    paper="length-regularised DPO, Park et al. 2024",
    arxiv="2403.19159",
    source="description",
    note="sign derived from max E[r - α|y|] - β KL",
)
def r_dpo(pair: Pair, *, beta: float = 0.1, alpha: float = 0.005) -> Tensor:
    return -F.logsigmoid(beta * pair.h + alpha * (pair.chosen.tokens - pair.rejected.tokens))


@objective(
    "ld_dpo",
    limits={"alpha": FRACTION},
    formula="-log σ(β h'), h' with the tokens beyond min(|y_w|, |y_l|) counted α times",
    paper="LD-DPO, Liu et al. 2024",
    arxiv="2409.06411",
    source="code",
    reads=Reads.SHARED_TOKENS,
)
def ld_dpo(pair: Pair, *, beta: float = 0.1, alpha: float = 0.5) -> Tensor:
    return -F.logsigmoid(beta * (pair.chosen.tail_scaled_s(alpha) - pair.rejected.tail_scaled_s(alpha)))


@objective(
    "wpo",
    limits={"clamp": POSITIVE},
    formula="-ω log σ(β h), ω = min(c, exp(a_w + a_l)), a = mean over tokens of log p(y_t) - log Σ_v p(v)²",
    paper="WPO, Zhou et al. 2024",
    arxiv="2406.11827",
    source="code",
    note="ω is detached; the product is clamped as in the authors' code",
    reads=Reads.ALIGNMENT,
)
def wpo(pair: Pair, *, beta: float = 0.01, clamp: float = 1.0) -> Tensor:
    assert pair.chosen.alignment is not None and pair.rejected.alignment is not None
    weight = safe_exp(pair.chosen.alignment + pair.rejected.alignment).clamp(max=clamp)
    return -weight.detach() * F.logsigmoid(beta * pair.h)
