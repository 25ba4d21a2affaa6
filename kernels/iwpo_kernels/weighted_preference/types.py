"""What `weighted_preference_loss` takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Form = Literal["sigmoid", "squared", "hinge"]
FORMS: tuple[Form, ...] = ("sigmoid", "squared", "hinge")


TIE = 2.0**-20
"""A margin is a tie where it is at most this part of the sizes of both log-probs, 8 roundings of float32: policy and
reference are then the same as far as their log-probs tell."""


class PreferenceSums(NamedTuple):
    """Sums over the pairs of a batch, each a float64 tensor without dimensions, on the device.

    Rewards are beta · (log-prob − reference log-prob) of the sums over tokens, whatever the loss averages.

    Attributes:
        pairs: number of pairs.
        weights: Σ w.
        squared_weights: Σ w².
        weighted_loss: Σ w · loss, before division by the denominator.
        loss: Σ loss, without weights.
        chosen_rewards: of the chosen sequences.
        rejected_rewards: of the rejected sequences.
        margins: Σ (chosen reward − rejected reward).
        correct: pairs whose chosen reward is larger than the rejected one; a tie within `TIE` counts half.
        chosen_logps: log-probs of the chosen sequences.
        rejected_logps: log-probs of the rejected sequences.
    """

    pairs: Tensor
    weights: Tensor
    squared_weights: Tensor
    weighted_loss: Tensor
    loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    margins: Tensor
    correct: Tensor
    chosen_logps: Tensor
    rejected_logps: Tensor

    @classmethod
    def of(
        cls,
        weight: Tensor,
        losses: Tensor,
        chosen_rewards: Tensor,
        rejected_rewards: Tensor,
        chosen_logps: Tensor,
        rejected_logps: Tensor,
        rounding: Tensor,
    ) -> PreferenceSums:
        """Of pairs, float64 [P] each; the kernel writes the same terms in the same order.

        Args:
            rounding: difference of the rewards that may be rounding: `TIE` times the log-probs that they are made of.
        """
        margins = chosen_rewards - rejected_rewards
        terms = cls(
            pairs=torch.ones_like(weight),
            weights=weight,
            squared_weights=weight.square(),
            weighted_loss=weighted(losses, weight),
            loss=losses,
            chosen_rewards=chosen_rewards,
            rejected_rewards=rejected_rewards,
            margins=margins,
            correct=right(margins, rounding),
            chosen_logps=chosen_logps,
            rejected_logps=rejected_logps,
        )
        return cls(*torch.stack(terms).sum(1))


def right(margins: Tensor, rounding: Tensor) -> Tensor:
    """float64 of the same shape: 1 where a margin is positive, 1/2 where it may be rounding alone, else 0."""
    return (margins > rounding).double() + 0.5 * (margins.abs() <= rounding)


def weighted(values: Tensor, weight: Tensor) -> Tensor:
    """w · value, 0 where w is 0 whatever the value: the one place in PyTorch where a weight meets a loss."""
    return torch.where(weight == 0, 0, weight * values)


class PreferenceOutput(NamedTuple):
    """Result of a preference loss.

    Attributes:
        loss: without dimensions, dtype of the log-probs, differentiable.
        sequence_logps: [S], log-prob of each sequence (a sum over its tokens), without gradient.
        sums: what metrics are made of, without gradient.
    """

    loss: Tensor
    sequence_logps: Tensor
    sums: PreferenceSums


@dataclass(frozen=True)
class PairLoss:
    """(1 − ε) ℓ(h) + ε ℓ(−h) with ℓ(h) = f(slope · h − shift), where
    f(x) is −log σ(x) for "sigmoid", x² for "squared" and max(0, −x) for "hinge".

    Attributes:
        shift: [P], or one number for all pairs.
        smoothing: ε, [P], or one number for all pairs.
        beta: scale of the rewards.
        average: log-prob and reference log-prob of a sequence are divided by its tokens (at least 1).
    """

    form: str
    slope: float
    shift: Tensor | float
    smoothing: Tensor | float
    beta: float
    average: bool


class Forward(NamedTuple):
    """What the forward pass computes.

    Attributes:
        sequence_logps: [S], dtype of the log-probs.
        coefficients: like sequence_logps, ∂(Σ w · loss)/∂logp of each token of a sequence.
        sums: float64 [11], in the order of `PreferenceSums`.
    """

    sequence_logps: Tensor
    coefficients: Tensor
    sums: Tensor
