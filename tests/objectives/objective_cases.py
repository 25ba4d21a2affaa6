"""Random pairs for objectives, and their losses through a mixture of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.objectives import Mixture, Pair, Side
from iwpo_fast.objectives.registry import Constants, State

PAIRS = 6
MODELS = 3


def random_pair(seed: int = 0, *, pairs: int = PAIRS, models: int = MODELS, spread: float = 4.0) -> Pair:
    """Float64 pairs with everything that any objective reads; each pair's mean reward gap is positive."""
    generator = torch.Generator().manual_seed(seed)
    of_head = torch.Generator().manual_seed(seed + 1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def side(lift: float) -> Side:
        tokens = torch.randint(2, 13, (pairs,), generator=generator)
        logp = -tokens * (0.2 + torch.rand(pairs, generator=generator, dtype=torch.float64))
        ref_logp = logp - spread * normal(pairs)
        return Side(
            logp=logp,
            tokens=tokens.double(),
            ref_logp=ref_logp,
            rewards=normal(pairs, models) + lift,
            alignment=0.5 * normal(pairs),
            shared_logp=0.7 * logp,
            shared_ref_logp=0.6 * ref_logp,
            own_reward=torch.randn(pairs, generator=of_head, dtype=torch.float64),
        )

    chosen, rejected = side(0.0), side(0.0)
    assert chosen.rewards is not None and rejected.rewards is not None
    below = (chosen.rewards - rejected.rewards).mean(-1, keepdim=True).clamp(max=0)
    chosen = replace(chosen, rewards=chosen.rewards - 2 * below + 0.1)
    return Pair(_sharing_all_but_tails(chosen, rejected), _sharing_all_but_tails(rejected, chosen))


def _sharing_all_but_tails(side: Side, other: Side) -> Side:
    """A completion that is not the longer one has no tail."""
    assert side.shared_logp is not None and side.ref_logp is not None and side.shared_ref_logp is not None
    longer = side.tokens > other.tokens
    return replace(
        side,
        shared_logp=side.shared_logp.where(longer, side.logp),
        shared_ref_logp=side.shared_ref_logp.where(longer, side.ref_logp),
    )


def at_log_ratios(w: Tensor, l: Tensor) -> Pair:  # noqa: E741
    """Pairs with log-ratios w and l, [P] each, of which half is in the shared tokens."""
    base = random_pair(pairs=len(w))

    def side(of: Side, ratio: Tensor) -> Side:
        reference = -50 - ratio.clamp(min=0)
        logp = reference + ratio
        return replace(of, logp=logp, ref_logp=reference, shared_logp=logp / 2, shared_ref_logp=reference / 2)

    return Pair(side(base.chosen, w), side(base.rejected, l))


def at_reference(pair: Pair) -> Pair:
    """The same pairs where the policy is the reference."""
    sides = (
        replace(side, ref_logp=side.logp, shared_ref_logp=side.shared_logp) for side in (pair.chosen, pair.rejected)
    )
    return Pair(*sides)


def with_logps(pair: Pair, w: Tensor, l: Tensor) -> Pair:  # noqa: E741
    """The pairs with other log-probs, of which the shared tokens keep their part."""

    def side(of: Side, logp: Tensor) -> Side:
        assert of.shared_logp is not None
        return replace(of, logp=logp, shared_logp=logp * (of.shared_logp / of.logp))

    return replace(pair, chosen=side(pair.chosen, w), rejected=side(pair.rejected, l))


def leaves(pair: Pair) -> tuple[Tensor, Tensor]:
    """Copies of the log-probs of both sides that require gradient."""
    return pair.chosen.logp.clone().requires_grad_(), pair.rejected.logp.clone().requires_grad_()


def mixture_of(name: str | dict[str, float], beta: float | None = None, /, **settings: Any) -> Mixture:
    """`settings` are params, and the divergence by its own name."""
    divergence = {key: settings.pop(key) for key in ("divergence", "divergence_alpha") if key in settings}
    return Mixture.of(ObjectiveConfig(name=name, beta=beta, params=settings, **divergence))


def constants_of(mixture: Mixture, pair: Pair, state: dict[str, State] | None = None) -> dict[str, Constants]:
    return mixture.constants(pair, {} if state is None else state, np.random.default_rng(0))


def with_divergence(pair: Pair, mixture: Mixture) -> Pair:
    return Pair(
        replace(pair.chosen, divergence=mixture.divergence), replace(pair.rejected, divergence=mixture.divergence)
    )


def losses(mixture: Mixture, pair: Pair, smoothing: Tensor | float = 0.0) -> Tensor:
    """[P], with the pairs as the whole step."""
    pair = with_divergence(pair, mixture)
    return mixture(pair, constants_of(mixture, pair), smoothing)


def losses_and_gradients(
    mixture: Mixture, pair: Pair, smoothing: Tensor | float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """[P] losses, and [P] gradients of their sum by the log-probs of the chosen and the rejected completions."""
    w, l = leaves(pair)  # noqa: E741
    per_pair = losses(mixture, with_logps(pair, w, l), smoothing)
    by_w, by_l = torch.autograd.grad(per_pair.sum(), (w, l), allow_unused=True, materialize_grads=True)
    return per_pair.detach(), by_w, by_l
