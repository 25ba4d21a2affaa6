"""Objectives that read explicit rewards: the columns `score_chosen` and `score_rejected`, of one or k reward models.

The paper's text of reward-model distillation (arXiv 2405.19316) was not at hand: the formulas are as understood from
descriptions of it. Pessimism has three forms that are kept apart: the least of the errors (e-DPO), the least of the
gaps (`d_dpo_min_gap`), and the margin of pessimistic rewards (`min`, `lcb`, `softmin`).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.limits import NOT_NEGATIVE, POSITIVE
from iwpo_fast.objectives.pair import Pair, Scores, mean_gap, uncertainty
from iwpo_fast.objectives.registry import Constants, FusedForm, Labels, Reads, State, objective

Aggregate = Literal["mean", "min", "lcb", "softmin"]
_DISTILLATION: dict[str, Any] = {"paper": "reward-model distillation, Fisch et al. 2024", "arxiv": "2405.19316"}
_STRENGTH = {"strength": ("aggregate", ("lcb", "softmin"))}
_KL: dict[str, Any] = {
    "samples": True,
    "note": "the last term is the forward KL; samples of the reference, as rows of one completion, take the place of "
    "the data's completions",
}
_RPO: dict[str, Any] = {
    "paper": "reward-aware preference optimisation, NeMo-Aligner",
    "arxiv": "2406.11704",
    "source": "code",
}


def pessimistic(rewards: Tensor, how: Aggregate, strength: float) -> Tensor:
    """[P, k] to [P]: mean, min, mean - c · std, or -c · log mean exp(-r / c), c the strength.

    The soft minimum tends to the minimum for c to 0 and to the mean for c to infinity (arXiv 2606.09073, abstract).
    """
    if how == "min":
        return rewards.amin(-1)
    if how == "lcb":
        return rewards.mean(-1) - strength * uncertainty(rewards)
    if how == "softmin":
        models = rewards.shape[-1]
        return -strength * (torch.logsumexp(-rewards / strength, -1) - np.log(models))
    return rewards.mean(-1)


def aggregated_gap(scores: Scores, how: Aggregate, strength: float) -> Tensor:
    """[P], the reward gap that a family of reward models stands for."""
    chosen, rejected = scores
    return pessimistic(chosen, how, strength) - pessimistic(rejected, how, strength)


def with_forward_kl(pair: Pair, losses: Tensor, gamma: float) -> Tensor:
    """[P], losses of pairs and gamma times KL(π_ref ‖ π), which the divergence that is chosen leaves as it is.

    Up to a constant the KL is the mean of -s over samples of the reference. These are the rows of one completion, if
    there are any: they have the KL alone then, and pairs have none. Where there are none the data's completions stand
    in, -(s_w + s_l) / 2 for each pair.
    """
    compared = pair.compared
    if compared is None:
        return losses + gamma * (-(pair.chosen.log_ratio + pair.rejected.log_ratio) / 2)
    of_samples = -gamma * pair.over_sides(pair.chosen.log_ratio, pair.rejected.log_ratio)
    return losses.where(compared, of_samples)


def _target(scores: Scores, *, beta: float, aggregate: Aggregate, strength: float) -> FusedForm:
    return _squared(beta, aggregated_gap(scores, aggregate, strength))


def _squared(beta: float, target: Tensor) -> FusedForm:
    """Of losses that read no labels, and therefore have nothing to smooth."""
    return {"form": "squared", "beta": beta, "target": target, "label_smoothing": 0.0}


@objective(
    "d_dpo",
    limits={"strength": POSITIVE},
    only_with=_STRENGTH,
    formula="(r_w - r_l - β h)²",
    **_DISTILLATION,
    source="description",
    reads=Reads.SCORES,
    labels=Labels.UNUSED,
    fused=_target,
)
def d_dpo(pair: Pair, *, beta: float = 0.1, aggregate: Aggregate = "mean", strength: float = 1.0) -> Tensor:
    return (beta * pair.h - aggregated_gap(pair.scores, aggregate, strength)) ** 2


@objective(
    "d_dpo_min_gap",
    formula="(min_i (r_w^i - r_l^i) - β h)²",
    **_DISTILLATION,
    source="derived",
    note="pessimism over gaps instead of rewards: the model that is least sure of the label is distilled",
    reads=Reads.SCORES,
)
def d_dpo_min_gap(pair: Pair, *, beta: float = 0.1) -> Tensor:
    return (beta * pair.h - pair.family_gaps.amin(-1)) ** 2


@objective(
    "dp_dpo",
    limits={"gamma": NOT_NEGATIVE, "strength": POSITIVE},
    only_with=_STRENGTH,
    formula="(r_w - r_l - β h)² - γ (s_w + s_l)/2",
    **_DISTILLATION,
    source="description",
    reads=Reads.SCORES,
    labels=Labels.UNUSED,
    **_KL,
)
def dp_dpo(
    pair: Pair, *, beta: float = 0.1, gamma: float = 0.01, aggregate: Aggregate = "mean", strength: float = 1.0
) -> Tensor:
    return with_forward_kl(pair, d_dpo(pair, beta=beta, aggregate=aggregate, strength=strength), gamma)


@objective(
    "e_dpo",
    limits={"gamma": NOT_NEGATIVE},
    formula="min_i (r_w^i - r_l^i - β h)² - γ (s_w + s_l)/2, the nearest model i for each pair",
    **_DISTILLATION,
    source="description",
    **_KL,
    reads=Reads.SCORES,
    labels=Labels.UNUSED,
)
def e_dpo(pair: Pair, *, beta: float = 0.1, gamma: float = 0.01) -> Tensor:
    return with_forward_kl(pair, _squared_errors(pair, beta).amin(-1), gamma)


def _nearest_model(
    step: Pair, state: State, rng: np.random.Generator | None, /, *, beta: float, gamma: float
) -> Constants:
    """The reward model with the least mean squared error over the pairs of the step."""
    errors = _squared_errors(step, beta)
    if step.compared is not None:
        errors = errors * step.compared[:, None]
    return {"nearest": errors.mean(0).argmin().expand(len(step))}


@objective(
    "e_dpo_batch",
    limits={"gamma": NOT_NEGATIVE},
    formula="min_i mean (r_w^i - r_l^i - β h)² - γ (s_w + s_l)/2, the nearest model i for the whole step",
    **_DISTILLATION,
    source="description",
    **_KL,
    reads=Reads.SCORES,
    labels=Labels.UNUSED,
    statistics=_nearest_model,
)
def e_dpo_batch(pair: Pair, *, beta: float = 0.1, gamma: float = 0.01) -> Tensor:
    nearest = _squared_errors(pair, beta).gather(1, pair.step["nearest"][:, None])[:, 0]
    return with_forward_kl(pair, nearest, gamma)


def _squared_errors(pair: Pair, beta: float) -> Tensor:
    """[P, k], how far the policy's margin is from each reward model's."""
    return (pair.family_gaps - beta * pair.h[:, None]) ** 2


@objective(
    "p_dpo",
    limits={"gamma": NOT_NEGATIVE},
    formula="-log σ(β h) - γ (s_w + s_l)/2",
    **_DISTILLATION,
    source="description",
    **_KL,
)
def p_dpo(pair: Pair, *, beta: float = 0.1, gamma: float = 0.01) -> Tensor:
    return with_forward_kl(pair, -F.logsigmoid(beta * pair.h), gamma)


@objective(
    "rpo_sq",
    limits={"scale": POSITIVE},
    formula="(β h - η (r_w - r_l))²",
    **_RPO,
    note="not the RPO of 2405.16436",
    reads=Reads.SCORES,
    labels=Labels.UNUSED,
    fused=lambda scores, beta, scale: _squared(beta, scale * mean_gap(scores)),
)
def rpo_sq(pair: Pair, *, beta: float = 0.2, scale: float = 1.0) -> Tensor:
    return (beta * pair.h - scale * pair.reward_gap) ** 2


def _bernoulli_kl(x: Tensor, y: Tensor) -> Tensor:
    """KL(Ber(σ(x)) ‖ Ber(σ(y)))."""
    p = torch.sigmoid(x)
    return p * (F.logsigmoid(x) - F.logsigmoid(y)) + (1 - p) * (F.logsigmoid(-x) - F.logsigmoid(-y))


@objective(
    "rpo_bwd_kl",
    limits={"scale": POSITIVE},
    formula="KL(Ber(σ(η (r_w - r_l))) ‖ Ber(σ(β h)))",
    **_RPO,
    reads=Reads.SCORES,
    labels=Labels.UNUSED,
)
def rpo_bwd_kl(pair: Pair, *, beta: float = 0.2, scale: float = 1.0) -> Tensor:
    return _bernoulli_kl(scale * pair.reward_gap, beta * pair.h)


@objective(
    "rpo_fwd_kl",
    limits={"scale": POSITIVE},
    formula="KL(Ber(σ(β h)) ‖ Ber(σ(η (r_w - r_l))))",
    **_RPO,
    reads=Reads.SCORES,
    labels=Labels.UNUSED,
)
def rpo_fwd_kl(pair: Pair, *, beta: float = 0.2, scale: float = 1.0) -> Tensor:
    return _bernoulli_kl(beta * pair.h, scale * pair.reward_gap)


@objective(
    "scaled_dpo",
    formula="-|r_w - r_l| log σ(β h)",
    paper="scaled DPO, NeMo-Aligner's self-rewarding",
    arxiv="",
    source="code",
    reads=Reads.SCORES,
)
def scaled_dpo(pair: Pair, *, beta: float = 0.1) -> Tensor:
    return -pair.reward_gap.abs() * F.logsigmoid(beta * pair.h)


def _soft_label(scores: Scores, *, beta: float, scale: float) -> FusedForm:
    return {"form": "sigmoid", "beta": beta, "label_smoothing": torch.sigmoid(-scale * mean_gap(scores))}


@objective(
    "mmpo",
    limits={"scale": POSITIVE},
    formula="-p log σ(β h) - (1 - p) log σ(-β h), p = σ(η (r_w - r_l))",
    paper="margin matching preference optimisation, Kim et al. 2024",
    arxiv="2410.03145",
    source="code",
    reads=Reads.SCORES,
    labels=Labels.UNUSED,
    fused=_soft_label,
)
def mmpo(pair: Pair, *, beta: float = 0.1, scale: float = 2.2) -> Tensor:
    x, p = beta * pair.h, torch.sigmoid(scale * pair.reward_gap)
    return -p * F.logsigmoid(x) - (1 - p) * F.logsigmoid(-x)


@objective(
    "odpo",
    limits={"alpha": NOT_NEGATIVE},
    formula="-log σ(β h - α log(r_w - r_l))",
    paper="DPO with an offset, Amini et al. 2024",
    arxiv="2402.10571",
    source="code",
    reads=Reads.SCORES | Reads.POSITIVE_GAP,
    one_sided="the offset is the logarithm of a reward gap, which the flipped pair does not have",
    fused=lambda scores, beta, alpha: {"form": "sigmoid", "beta": beta, "margin": alpha * mean_gap(scores).log()},
)
def odpo(pair: Pair, *, beta: float = 0.1, alpha: float = 1.0) -> Tensor:
    return -F.logsigmoid(beta * pair.h - alpha * pair.reward_gap.log())
