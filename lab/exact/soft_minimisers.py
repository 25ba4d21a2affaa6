"""Where SPO's losses are least when preferences are Bradley-Terry's or Plackett-Luce's: exactly, by all comparisons."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations

import torch
from torch import Tensor

from iwpo_fast.objectives import Pair, Side, get_objective
from iwpo_fast.objectives.spo import best_of, ranked

Loss = Callable[[Tensor], Tensor]
"""From log-probs of all completions, float64 [Y], to the expected loss []."""

OF_A_GROUP = 3
"""Completions that are compared by best-of-n and ranked losses."""
STEPS = 2000


def losses_of(rewards: Tensor, alpha: float, mu: float) -> dict[str, Loss]:
    """Expected losses where each pair or group of completions is as likely to be compared, by their names."""
    return {
        "pairs": lambda logps: _of_pairs(logps, rewards, alpha, 0.0),
        "pairs with μ": lambda logps: _of_pairs(logps, rewards, alpha, mu),
        "best of 3": lambda logps: _of_bests(logps, rewards, alpha),
        "ranked 3": lambda logps: _of_rankings(logps, rewards, alpha),
    }


def minimiser(loss: Loss, start: Tensor) -> Tensor:
    """float64 [Y], the policy to which gradient descent comes from softmax of `start`."""
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.05, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.001 ** (1 / STEPS))
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(logits.log_softmax(0)).backward()
        optimiser.step()
        schedule.step()
    return logits.detach().softmax(0)


def _of_pairs(logps: Tensor, rewards: Tensor, alpha: float, mu: float) -> Tensor:
    first, second = torch.tensor(list(permutations(range(len(rewards)), 2))).T
    # Lengths that differ, so that a weight by log-probs of tokens differs too.
    tokens = 1 + torch.arange(len(rewards)) % 3
    pair = Pair(Side(logps[first], tokens[first]), Side(logps[second], tokens[second]))
    losses = get_objective("spo_pairs").loss(pair, alpha=alpha, mu=mu)
    return (torch.sigmoid(rewards[first] - rewards[second]) * losses).mean()


def _of_bests(logps: Tensor, rewards: Tensor, alpha: float) -> Tensor:
    groups = torch.tensor(list(combinations(range(len(rewards)), OF_A_GROUP)))
    chances = rewards[groups].softmax(1)
    losses = [best_of(logps[groups], torch.full((len(groups),), k), alpha) for k in range(OF_A_GROUP)]
    return (chances * torch.stack(losses, 1)).sum(1).mean()


def _of_rankings(logps: Tensor, rewards: Tensor, alpha: float) -> Tensor:
    orders = torch.tensor(list(permutations(range(len(rewards)), OF_A_GROUP)))
    chances = torch.exp(-ranked(rewards[orders], 1.0))
    return (chances * ranked(logps[orders], alpha)).mean()
