"""Doubly robust preference optimisation, after Xu et al. 2025 (arXiv 2506.01183), as understood here."""

from __future__ import annotations

import torch
from torch import Tensor

from iwpo_fast.limits import Limits
from iwpo_fast.objectives.pair import Pair
from iwpo_fast.objectives.rankings import without_absent
from iwpo_fast.objectives.registry import Reads, objective


@objective(
    "drpo",
    limits={"clip": Limits(1, infinite=True)},
    formula="β KL(p ‖ 1/K) - ½ Σ_{y ∈ {w, l}} [Σ_k p_k σ(r_k - r_y) + ρ_y (1[y = w] - σ(r_y - r_y'))], "
    "p = softmax(s), ρ = clip(exp(s), 1/C, C)",
    paper="DRPO, Xu et al. 2025",
    arxiv="2506.01183",
    source="code",
    transforms=False,
    reads=Reads.CANDIDATES | Reads.SCORES,
    note=(
        "y' is the other one of the pair; scores are log-odds. An approximation: the authors draw from the policy in "
        "each step, here the K candidates of the row are draws of the reference, weighed by the policy "
        "(systems/rivals.md)"
    ),
)
def drpo(pair: Pair, *, beta: float = 0.04, clip: float = 2.5) -> Tensor:
    ratios, there = pair.in_order("s")
    rewards, _ = pair.in_order("reward")
    log_share = without_absent(ratios, there).log_softmax(-1)
    share = log_share.exp()
    kl = (share * log_share).sum(-1) + there.sum(-1).to(share.dtype).log()
    return beta * kl - direct(share, rewards) - correction(pair, clip)


def direct(share: Tensor, rewards: Tensor) -> Tensor:
    """[P], how often a draw of the policy is preferred to one of the pair, if the scores are right.

    Args:
        share: [P, K], of each completion under the policy; the chosen one is the first, the rejected one the last.
        rewards: [P, K], log-odds.
    """
    of_pair = torch.stack([rewards[:, 0], rewards[:, -1]], 1)
    judged = torch.sigmoid(rewards[:, :, None] - of_pair[:, None, :])
    return (share[:, :, None] * judged).sum(1).mean(-1)


def correction(pair: Pair, clip: float) -> Tensor:
    """[P], by how much the pair's label differs from what the scores say of it, weighed by the policy.

    The gradient is that of the authors' code: of the ratio as if it were not clipped, times what the clip left of it.
    """
    surprise = torch.sigmoid(-pair.reward_gap)
    return surprise * (_ratio(pair.chosen.s, clip) - _ratio(pair.rejected.s, clip)) / 2


def _ratio(log_ratio: Tensor, clip: float) -> Tensor:
    return log_ratio.exp().clamp(1 / clip, clip).detach() * (1 + log_ratio - log_ratio.detach())
