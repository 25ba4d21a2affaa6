"""One prompt with a few responses, whose pairs come from one policy while another learns, and judges of them.

Every expectation is a sum, and nothing generalises. Preferences are σ of a reward and a part that turns in circles,
which no reward has. The right judge is the truth, the wrong one knows no circles and likes length; the right reference
of a ratio is what the pairs were drawn from, the wrong one is where the policy that learns begins, to which its KL is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.exact.doubly_robust import correction, direct
from lab.exact.evaluate import factor_for, log_policy

RESPONSES, CIRCLES, LENGTH, KL = 8, 1.0, 1.0, 0.5
MANY = math.inf
"""In the place of a count of pairs: what comes of ever more of them."""
RIDGE = 1e-4
"""Of DPO, so that a response that never won has a finite reward."""
STEPS, RATE = 400, 0.2
"""Of Adam, where ratios are clipped and no formula says what is best."""
PAIRS = torch.cartesian_prod(torch.arange(RESPONSES), torch.arange(RESPONSES))
"""[Y², 2], all that can be: a chosen and a rejected response."""


class Worlds(NamedTuple):
    """What is true in W worlds; float64.

    Attributes:
        preferred: [W, Y, Y], how often the first is preferred to the second.
        liked: [W, Y, Y], the same to the judge who is wrong.
        drawn: [W, Y], log-probs of the policy that pairs come from.
        ref_logps: [W, 1, Y], of the one that training begins from.
    """

    preferred: Tensor
    liked: Tensor
    drawn: Tensor
    ref_logps: Tensor

    @property
    def gain(self) -> Tensor:
        """[W, Y], how often a response is preferred to one of those that pairs come from."""
        return (self.preferred * self.drawn.exp()[:, None]).sum(2)

    def judged(self, *, right: bool) -> Tensor:
        return self.preferred if right else self.liked

    def reference(self, *, right: bool) -> Tensor:
        return self.drawn if right else self.ref_logps[:, 0]


class Estimator(NamedTuple):
    """How V is estimated.

    Attributes:
        judge, reference: whether they are right; None where there is none.
        clip: of ratios.
    """

    judge: bool | None = None
    reference: bool | None = None
    clip: float = math.inf


def worlds_of(seed: int, count: int) -> Worlds:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=random, dtype=torch.float64)

    rewards, length, turning = normal(RESPONSES), normal(RESPONSES), normal(RESPONSES, RESPONSES)
    truth = between(rewards) + CIRCLES * (turning - turning.mT) / math.sqrt(2)
    liked = between(rewards + LENGTH * length)
    drawn, start = normal(RESPONSES).log_softmax(1), normal(1, RESPONSES).log_softmax(2)
    return Worlds(truth.sigmoid(), liked.sigmoid(), drawn, start)


def between(rewards: Tensor) -> Tensor:
    """[W, Y, Y], differences of rewards [W, Y]."""
    return rewards[:, :, None] - rewards[:, None]


def shares_of(worlds: Worlds, count: float, seed: int) -> Tensor:
    """[W, Y²], how often each of `PAIRS` is there among so many pairs, which may hold one response twice."""
    probs = worlds.drawn.exp()
    expected = 2 * (probs[:, :, None] * probs[:, None] * worlds.preferred).flatten(1)
    if count == MANY:
        return expected
    random = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(expected, int(count), replacement=True, generator=random)
    one = torch.ones(drawn.shape, dtype=expected.dtype)
    return torch.zeros_like(expected).scatter_add(1, drawn, one) / count


def estimate(worlds: Worlds, estimator: Estimator, logps: Tensor, shares: Tensor) -> Tensor:
    """[W], V of policies with log-probs [W, Y] by pairs of these shares."""
    seen = worlds.judged(right=bool(estimator.judge))
    judged = seen[:, :, PAIRS].permute(0, 2, 1, 3)  # [W, Y², Y, 2]
    of_pairs = logps[:, None].expand(-1, len(PAIRS), -1)
    found = torch.zeros_like(shares) if estimator.judge is None else direct(of_pairs, judged)
    if estimator.reference is not None:
        log_ref = worlds.reference(right=estimator.reference)[:, PAIRS]
        believed = torch.zeros_like(judged) if estimator.judge is None else judged
        pairs = PAIRS.expand(len(logps), -1, -1)
        found = found + correction(of_pairs, pairs, log_ref, believed, clip=estimator.clip)
    return (found * shares).sum(1)


def direction(worlds: Worlds, estimator: Estimator, shares: Tensor) -> Tensor:
    """[W, Y], what the best policy of an estimate is in log-probs beyond the start, up to a factor."""
    if estimator.clip < math.inf:
        return climbed(worlds, estimator, shares)
    logps = worlds.ref_logps[:, 0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(estimate(worlds, estimator, logps, shares).sum(), logps)
    return slope / worlds.ref_logps[:, 0].exp()


def climbed(worlds: Worlds, estimator: Estimator, shares: Tensor) -> Tensor:
    """As `direction`, by gradient, at the β at which the best policy has the KL `KL`."""
    start = worlds.ref_logps[:, 0]
    beta = 1 / factor_for(worlds.gain[:, None], worlds, KL)
    scores = torch.zeros_like(start, requires_grad=True)
    optimiser = torch.optim.Adam([scores], lr=RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, STEPS)
    for _ in range(STEPS):
        logps = (start + scores).log_softmax(1)
        kl = (logps.exp() * (logps - start)).sum(1)
        loss = beta * kl - estimate(worlds, estimator, logps, shares)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        schedule.step()
    return scores.detach()


def dpo(shares: Tensor) -> Tensor:
    """[W, Y], rewards at which DPO's loss is least, which do not depend on the reference."""
    rewards = torch.zeros(len(shares), RESPONSES, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([rewards], max_iter=1000, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        margin = rewards[:, PAIRS[:, 0]] - rewards[:, PAIRS[:, 1]]
        loss = (shares * F.softplus(-margin)).sum() + RIDGE * rewards.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return rewards.detach()


def at_kl(worlds: Worlds, scores: Tensor) -> Tensor:
    """[W, Y], log π of π ∝ π_0 exp(c · scores), each c such that the KL is `KL`."""
    one = scores[:, None]
    return log_policy(one, worlds, factor_for(one, worlds, KL))[:, 0]


def worth(worlds: Worlds, logps: Tensor) -> Tensor:
    """[W], the truth that V estimates."""
    return (logps.exp() * worlds.gain).sum(1)
