"""Losses that compare a pair with the other pairs of its step: sorted (AOT) or through a common beta (beta-DPO)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.limits import BELOW_ONE, NOT_NEGATIVE
from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.registry import Constants, State, objective

DECAY = 0.9
_SORTED = "it compares sorted batches, in which no pair has a label of its own to flip"


def _matched(values: Tensor, others: Tensor) -> Tensor:
    """For each of `values` [B], the one of `others` [B] that has the same rank."""
    ranks = values.argsort(stable=True).argsort(stable=True)
    return others.sort().values[ranks]


def _ref_gap(step: Pair) -> Tensor:
    assert step.chosen.ref_logp is not None and step.rejected.ref_logp is not None
    return step.chosen.ref_logp - step.rejected.ref_logp


def _matched_gaps(step: Pair, state: State, rng: np.random.Generator | None, /, **_: Any) -> Constants:
    return {"ref_gap": _matched(step.chosen.logp - step.rejected.logp, _ref_gap(step))}


@objective(
    "aot",
    formula="-log σ(β d), d = sort(l_w - l_l) - sort(l_ref,w - l_ref,l)",
    paper="AOT, Melnyk et al. 2024",
    arxiv="2406.05882",
    source="code",
    note="sorted over the global step",
    transforms=False,
    one_sided=_SORTED,
    statistics=_matched_gaps,
)
def aot(pair: Pair, *, beta: float = 0.1) -> Tensor:
    return -F.logsigmoid(beta * (pair.chosen.logp - pair.rejected.logp - pair.step["ref_gap"]))


def _matched_ratios(step: Pair, state: State, rng: np.random.Generator | None, /, **_: Any) -> Constants:
    w, l = step.chosen.s, step.rejected.s  # noqa: E741
    return {"rejected": _matched(w, l), "chosen": _matched(l, w)}


@objective(
    "aot_unpaired",
    formula="-log σ(β d), d = sort(s_w) - sort(s_l)",
    paper="AOT, Melnyk et al. 2024",
    arxiv="2406.05882",
    source="code",
    note="sorted over the global step; each half of a pair's loss belongs to one of its completions",
    transforms=False,
    one_sided=_SORTED,
    statistics=_matched_ratios,
)
def aot_unpaired(pair: Pair, *, beta: float = 0.1) -> Tensor:
    as_chosen = -F.logsigmoid(beta * (pair.chosen.s - pair.step["rejected"]))
    as_rejected = -F.logsigmoid(beta * (pair.step["chosen"] - pair.rejected.s))
    both = as_chosen + as_rejected
    # Each difference occurs twice, once per completion: it counts half in the value, but fully in its gradient.
    return both - 0.5 * both.detach()


def _common_beta(
    step: Pair,
    state: State,
    rng: np.random.Generator | None,
    /,
    *,
    beta: float,
    alpha: float,
    dropped: float,
) -> Constants:
    """Keep a likely sample of the pairs, and scale beta by how far their mean margin is from its running mean.

    The running means take the step in before their use, and are corrected for having started at 0. In an evaluation
    no pair is left out.
    """
    h = step.h.cpu().numpy()
    mean, std = (_running(state, name, float(value)) for name, value in (("mean", h.mean()), ("std", h.std())))
    kept = np.ones(len(h))
    if rng is not None:
        size = max(1, round((1 - dropped) * len(h)))
        # Gumbel noise on log-weights, largest first, draws without replacement.
        scores = -0.5 * ((h - mean) / (std or 1.0)) ** 2 + rng.gumbel(size=len(h))
        kept = np.zeros(len(h))
        kept[np.argsort(-scores, kind="stable")[:size]] = len(h) / size
    scaled = max(1e-3, beta * (1 + alpha * (float(h[kept > 0].mean()) - mean)))
    return {"beta": step.h.new_full((len(h),), scaled), "kept": torch.from_numpy(kept).to(step.h)}


def _running(state: State, name: str, value: float) -> float:
    """Mean of `value` over steps with decay 0.9, the newest step included."""
    weight = f"{name}_weight"
    state[name] = DECAY * state.get(name, 0.0) + (1 - DECAY) * value
    state[weight] = DECAY * state.get(weight, 0.0) + (1 - DECAY)
    return state[name] / state[weight]


@objective(
    "beta_dpo",
    limits={"alpha": NOT_NEGATIVE, "dropped": BELOW_ONE},
    formula="-log σ(β' h) over a likely sample of the step, β' = max(0.001, β (1 + α (mean h - M)))",
    paper="β-DPO, Wu et al. 2024",
    arxiv="2407.08639",
    source="code",
    note="β' over the global step; M and the spread that the sampling uses are running means with decay 0.9",
    statistics=_common_beta,
)
def beta_dpo(pair: Pair, *, beta: float = 0.1, alpha: float = 0.6, dropped: float = 0.2) -> Tensor:
    return -pair.step["kept"] * F.logsigmoid(pair.step["beta"] * pair.h)
