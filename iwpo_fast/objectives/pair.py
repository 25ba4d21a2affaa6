"""What an objective sees of P pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from iwpo_fast.objectives.divergence import Divergence, reverse_kl

Scores = tuple[Tensor, ...]
"""Of the chosen and of the rejected completions by k reward models, [P, k] each, whatever the policy does."""


@dataclass(frozen=True)
class Side:
    """The chosen or the rejected completions of P pairs. Only `logp`, `shared_logp` and `own_reward` carry gradient.

    Attributes:
        logp: [P], l, log-prob under the policy, summed over completion tokens.
        tokens: [P], |y|, completion tokens, at least 1.
        ref_logp: [P], l_ref, or None for objectives without a reference.
        rewards: [P, k], scores of k reward models, or None.
        own_reward: [P], ρ, by the reward head of the policy itself, or None (DRDO).
        alignment: [P], mean over tokens of log p(y_t) - log sum_v p(v)^2, or None (WPO).
        shared_logp, shared_ref_logp: [P], sums over the first min(|y_w|, |y_l|) tokens only, or None (LD-DPO).
        divergence: monotone map of log-ratios (f-DPO).
        present: bool [P], which completions there are; None where all are. Numbers of absent ones are finite, and mean
            nothing.
    """

    logp: Tensor
    tokens: Tensor
    ref_logp: Tensor | None = None
    rewards: Tensor | None = None
    alignment: Tensor | None = None
    shared_logp: Tensor | None = None
    shared_ref_logp: Tensor | None = None
    own_reward: Tensor | None = None
    divergence: Divergence = reverse_kl
    present: Tensor | None = None

    @property
    def log_ratio(self) -> Tensor:
        """[P], l - l_ref."""
        return self.logp - self._given(self.ref_logp, "reference log-probs")

    @property
    def s(self) -> Tensor:
        """[P], log-ratio through the divergence's map, which leaves it as it is by default."""
        return self.divergence(self.log_ratio)

    @property
    def mean_s(self) -> Tensor:
        """[P], s / |y|."""
        return self.s / self.tokens

    @property
    def mean_logp(self) -> Tensor:
        """[P], l / |y|."""
        return self.logp / self.tokens

    @property
    def family(self) -> Tensor:
        """[P, k], scores of the reward models."""
        return self._given(self.rewards, "scores")

    @property
    def reward(self) -> Tensor:
        """[P], mean score over the reward models."""
        return self.family.mean(-1)

    def tail_scaled_s(self, alpha: float) -> Tensor:
        """[P], s with the tokens beyond the shorter completion of the pair counted alpha times."""
        shared = self._given(self.shared_logp, "shared_logp") - self._given(self.shared_ref_logp, "shared_ref_logp")
        return self.divergence(shared + alpha * (self.log_ratio - shared))

    def there(self, values: Tensor) -> Tensor:
        """[P], the values of completions that there are, and 0 for absent ones."""
        return values if self.present is None else values.where(self.present, 0)

    @staticmethod
    def _given(value: Tensor | None, name: str) -> Tensor:
        assert value is not None, f"this objective needs {name}"
        return value

    def detach(self) -> Side:
        """The same numbers without gradient."""
        shared = None if self.shared_logp is None else self.shared_logp.detach()
        own = None if self.own_reward is None else self.own_reward.detach()
        return replace(self, logp=self.logp.detach(), shared_logp=shared, own_reward=own)


@dataclass(frozen=True)
class Between:
    """M completions in rank between the chosen and the rejected one of their pairs.

    Attributes:
        logp: [M], l, with gradient.
        place: int64 [M], where each stands in a table [P, width] with those of a pair in a row, from the best on.
        ref_logp: [M], l_ref, or None for objectives without a reference.
        rewards: [M], scores, or None.
        divergence: as of `Side`.
    """

    logp: Tensor
    place: Tensor
    width: int
    ref_logp: Tensor | None = None
    rewards: Tensor | None = None
    divergence: Divergence = reverse_kl

    @property
    def s(self) -> Tensor:
        """[M], log-ratio through the divergence's map."""
        assert self.ref_logp is not None, "this objective needs reference log-probs of all candidates"
        return self.divergence(self.logp - self.ref_logp)

    @property
    def reward(self) -> Tensor:
        """[M], scores."""
        assert self.rewards is not None, "this objective needs scores of all candidates"
        return self.rewards


@dataclass(frozen=True)
class Pair:
    """P pairs and what is known of the whole optimiser step that they belong to.

    Attributes:
        chosen, rejected: the two completions.
        step: detached [P] constants, by name, from the statistics of an objective over the step.
        between: further completions, for objectives that read all candidates.
    """

    chosen: Side
    rejected: Side
    step: Mapping[str, Tensor] = field(default_factory=dict)
    between: Between | None = None

    def __len__(self) -> int:
        return self.chosen.logp.shape[0]

    @property
    def h(self) -> Tensor:
        """[P], margin s_w - s_l."""
        return self.chosen.s - self.rejected.s

    @property
    def mean_h(self) -> Tensor:
        """[P], s_w / |y_w| - s_l / |y_l|."""
        return self.chosen.mean_s - self.rejected.mean_s

    @property
    def scores(self) -> Scores:
        return self.chosen.family, self.rejected.family

    @property
    def reward_gap(self) -> Tensor:
        """[P], difference of the mean scores, chosen minus rejected."""
        return mean_gap(self.scores)

    @property
    def own_reward_gap(self) -> Tensor:
        """[P], difference of the policy's own rewards, chosen minus rejected."""
        chosen, rejected = self.chosen.own_reward, self.rejected.own_reward
        assert chosen is not None and rejected is not None, "this objective needs rewards of the policy itself"
        return chosen - rejected

    @property
    def family_gaps(self) -> Tensor:
        """[P, k], the same for every reward model."""
        return self.chosen.family - self.rejected.family

    @property
    def compared(self) -> Tensor | None:
        """bool [P], which rows have both completions; None where all have."""
        if self.chosen.present is None or self.rejected.present is None:
            return None
        return self.chosen.present & self.rejected.present

    def over_sides(self, of_chosen: Tensor, of_rejected: Tensor) -> Tensor:
        """[P], the sum of a term of each completion over those that there are."""
        return self.chosen.there(of_chosen) + self.rejected.there(of_rejected)

    def swapped(self) -> Pair:
        """The pairs with their labels flipped."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)

    def detach(self) -> Pair:
        between = self.between and replace(self.between, logp=self.between.logp.detach())
        return replace(self, chosen=self.chosen.detach(), rejected=self.rejected.detach(), between=between)

    def in_order(self, score: Literal["logp", "s", "reward"] = "logp") -> tuple[Tensor, Tensor]:
        """[P, K] each: `score` of the completions of each pair from the best to the worst, and which there are."""
        w, l = (getattr(side, score)[:, None] for side in (self.chosen, self.rejected))  # noqa: E741
        there = torch.ones_like(w, dtype=torch.bool)
        if self.between is None:
            return torch.cat([w, l], 1), there.repeat(1, 2)
        size, place = len(self) * self.between.width, self.between.place
        others = w.new_zeros(size).index_put((place,), getattr(self.between, score)).view(len(self), -1)
        filled = torch.zeros_like(others, dtype=torch.bool).view(-1).index_fill(0, place, True).view_as(others)
        return torch.cat([w, others, l], 1), torch.cat([there, filled, there], 1)


def mean_gap(scores: Scores) -> Tensor:
    """[P], difference of the mean scores, chosen minus rejected."""
    chosen, rejected = scores
    return chosen.mean(-1) - rejected.mean(-1)


def uncertainty(values: Tensor) -> Tensor:
    """[P, k] to [P], standard deviation over the k reward models; 0 for one model."""
    return values.std(-1, correction=0) if values.shape[-1] > 1 else torch.zeros_like(values[..., 0])
