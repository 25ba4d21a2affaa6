"""What a policy is worth against the one that pairs were drawn from, estimated in a doubly robust way.

After "Doubly Robust Alignment for Large Language Models" (arXiv 2506.01183), its authors' code and the beginning of its
text, as understood here. A judge g(y, y') says how often y is preferred to y'. From a pair of responses, each taken
once as y and once as y', and z, 1 where y was chosen and else 0,

    V = E_{y* ~ π} g(y*, y') + ρ(y) (z - g(y, y')),    ρ = π / π̂_ref, clipped to [1/C, C]

estimates how often a response of the policy is preferred to one of the reference. Without a clip its mean is right if
the judge is, or if π̂_ref is what y was drawn from. Here the first term is a sum over all responses, where a language
model would draw some.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DoublyRobust:
    """An arm that climbs V - beta KL(π ‖ π_ref).

    Attributes:
        rewards: [n, Y], of all responses of each prompt, in log-odds: the judge is Bradley-Terry's.
        beta: of the KL; the authors' 0.04.
        clip: C, 1 or more; the authors' 2.5.
        corrects: with the second term of V; else it is the direct method alone.
    """

    rewards: Tensor
    beta: float = 0.04
    clip: float = 2.5
    corrects: bool = True


def value(logps: Tensor, pair: Tensor, log_ref: Tensor, judged: Tensor, *, clip: float = math.inf) -> Tensor:
    """V of each pair, the mean over both orders; its gradient is that of the authors' code.

    The ratio is differentiated as if it were not clipped, times what the clip has left of it.

    Args:
        logps: [..., Y], log π of all responses.
        pair: int64 [..., 2], the chosen and the rejected response.
        log_ref: [..., 2], log π̂_ref of these.
        judged: [..., Y, 2], g of all responses against the chosen and against the rejected one.
        clip: C; infinity clips nothing.

    Returns:
        [...].

    Raises:
        ValueError: C is below 1, or not a number.
    """
    return direct(logps, judged) + correction(logps, pair, log_ref, judged, clip=clip)


def direct(logps: Tensor, judged: Tensor) -> Tensor:
    """[...], the first term of V, which believes the judge; arguments as of `value`."""
    return (logps.exp()[..., None] * judged).sum(-2).mean(-1)


def correction(logps: Tensor, pair: Tensor, log_ref: Tensor, judged: Tensor, *, clip: float = math.inf) -> Tensor:
    """[...], the second term of V; with `judged` 0 it is importance sampling alone. Arguments as of `value`."""
    if not clip >= 1:
        raise ValueError(f"clip is {clip}, and ratios are clipped to [1/clip, clip]: give a number of 1 or more.")
    own = logps.gather(-1, pair)
    ratio = (own - log_ref).exp().clamp(1 / clip, clip).detach()
    # [..., y, y'] of the pair's own two; each is judged against the other one.
    among = judged.gather(-2, pair[..., None].expand(*pair.shape, 2))
    against_other = torch.stack([among[..., 0, 1], among[..., 1, 0]], -1)
    surprise = torch.tensor([1.0, 0.0], dtype=judged.dtype) - against_other
    return (ratio * (1 + own - own.detach()) * surprise).mean(-1)


def bradley_terry(rewards: Tensor, pair: Tensor) -> Tensor:
    """[..., Y, 2], σ(r(y) - r(y')) of rewards [..., Y], against both of a pair [..., 2]."""
    return torch.sigmoid(rewards[..., None] - rewards.gather(-1, pair)[..., None, :])


def loss_of(asked: DoublyRobust, logps: Tensor, ref_logps: Tensor, pair: Tensor, rewards: Tensor) -> Tensor:
    """[...], what an arm makes small: beta KL(π ‖ π_ref) - V, the KL exact.

    Args:
        asked: its `rewards` are not read.
        logps, ref_logps, rewards: [..., Y], of all responses; the reference is also what ratios are to.
        pair: int64 [..., 2].
    """
    judged = bradley_terry(rewards, pair)
    worth = direct(logps, judged)
    if asked.corrects:
        worth = worth + correction(logps, pair, ref_logps.gather(-1, pair), judged, clip=asked.clip)
    return asked.beta * (logps.exp() * (logps - ref_logps)).sum(-1) - worth
