"""Rankings of three or more completions to a prompt, under Plackett and Luce's model of choices without replacement."""

from __future__ import annotations

import torch
from torch import Tensor

from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.registry import Reads, objective

ORDERED = "it reads candidates in an order, in which no pair has a label of its own to flip"


@objective(
    "dpo_ranked",
    formula="-Σ_k log softmax(β (s_k, …, s_K))_k, candidates of the row from the best to the worst",
    paper="DPO of rankings, Rafailov et al. 2023",
    arxiv="2305.18290",
    source="description",
    reads=Reads.CANDIDATES | Reads.ORDER,
    one_sided=ORDERED,
    note="minus the log-likelihood of the whole order (Plackett-Luce); `sigmoid` of two; equal scores as they came",
)
def dpo_ranked(pair: Pair, *, beta: float = 0.1) -> Tensor:
    ratios, there = pair.in_order("s")
    return plackett_luce(beta * ratios, there)


def plackett_luce(values: Tensor, there: Tensor | None = None) -> Tensor:
    """[P], -Σ_k log softmax(v_k, ..., v_K)_k: each of K completions was chosen in turn among those that were left.

    Of two it is -log σ(v_1 - v_2). A constant that is added to all values of a row changes nothing.

    Args:
        values: [P, K], from the best to the worst.
        there: bool [P, K], which completions there are, the last among them; None where all are.
    """
    kept = without_absent(values, there)
    left = kept.flip(-1).logcumsumexp(-1).flip(-1)
    of_choices = left - kept
    return (of_choices if there is None else of_choices.where(there, 0)).sum(-1)


def without_absent(values: Tensor, there: Tensor | None) -> Tensor:
    """So little for absent completions that no sum sees it, but a number, because infinity has no gradient."""
    return values if there is None else values.masked_fill(~there, torch.finfo(values.dtype).min / 4)
