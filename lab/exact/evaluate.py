"""Exact expectations of policies on the test prompts, at equal KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lab.exact.policy import Policies
from lab.exact.worlds import Prompts, World

BUDGETS = (0.25, 1.0, 2.0)  # nats of KL(pi || pi_ref)
LARGEST_FACTOR = 1e4
BISECTIONS = 40
MEASURES = ("kl", "gold", "scaled_gold", "win_rate")  # of `expectations`


class Referred(Protocol):
    """What has log-probs of a reference, [P, Y] or, for each arm its own, [A, P, Y]."""

    @property
    def ref_logps(self) -> Tensor: ...


@torch.no_grad()
def evaluate(policies: Policies, worlds: Sequence[World]) -> Mapping[str, Tensor]:
    """Each of `MEASURES`, [W, A, 1 + budgets]: of the policies as trained, then at each budget of KL."""
    values: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
    for index, world in enumerate(worlds):
        scores = policies.of_world(index).scores(world.test.features.flatten(0, 1)[None])[0]
        scores = scores.unflatten(1, world.test.gold.shape)  # [A, P, 32]
        factors = [torch.ones(len(scores)), *(factor_for(scores, world.test, budget) for budget in BUDGETS)]
        at = [expectations(log_policy(scores, world.test, factor), world) for factor in factors]
        for name in MEASURES:
            values[name].append(torch.stack([e[name] for e in at], 1))
    return {name: torch.stack(of_worlds) for name, of_worlds in values.items()}


def log_policy(scores: Tensor, prompts: Referred, factor: Tensor) -> Tensor:
    """log softmax(log pi_ref + factor * f): [A, P, 32] of scores f [A, P, 32] and factors [A]."""
    return (prompts.ref_logps + factor[:, None, None] * scores).log_softmax(2)


def kl_of(logps: Tensor, prompts: Referred) -> Tensor:
    """KL(pi || pi_ref), mean over prompts, [A]."""
    return (logps.exp() * (logps - prompts.ref_logps)).sum(2).mean(1)


def factor_for(scores: Tensor, prompts: Referred, budget: float) -> Tensor:
    """The factor [A] at which the KL is the budget; KL grows with it. `LARGEST_FACTOR` where no factor is enough."""
    low, high = torch.full((len(scores),), 1e-4), torch.full((len(scores),), LARGEST_FACTOR)
    for _ in range(BISECTIONS):
        middle = (low * high).sqrt()
        below = kl_of(log_policy(scores, prompts, middle), prompts) < budget
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def expectations(logps: Tensor, world: World) -> dict[str, Tensor]:
    """Of policies with log-probs [A, P, 32] on the test prompts of a world: sums over completions, means over prompts.

    Returns:
        Each of `MEASURES`, [A].

        kl: KL(pi || pi_ref) in nats.
        gold: gain of gold reward over the reference.
        scaled_gold: the same with each task's gold reward divided by its scale.
        win_rate: probability that the policy's completion has the higher gold reward than the reference's, ties half.
    """
    test = world.test
    probs, ref = logps.exp(), test.ref_logps.exp()
    gold = ((probs - ref) * test.gold).sum(2)  # [A, P]
    wins = (probs * wins_against_reference(test)).sum(2).mean(1)
    scaled = (gold / world.scale[test.task]).mean(1)
    return {"kl": kl_of(logps, test), "gold": gold.mean(1), "scaled_gold": scaled, "win_rate": wins}


def wins_against_reference(prompts: Prompts) -> Tensor:
    """Probability that a completion beats one of the reference, ties half: [P, 32]."""
    higher = (prompts.gold[:, :, None] > prompts.gold[:, None]).float()
    tied = (prompts.gold[:, :, None] == prompts.gold[:, None]).float()
    return ((higher + tied / 2) * prompts.ref_logps.exp()[:, None]).sum(2)
