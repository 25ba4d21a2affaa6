"""Random inputs of the weighted preference loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from iwpo_kernels import PreferenceOutput, weighted_preference_loss
from iwpo_kernels.weighted_preference import naive_weighted_preference_loss


@dataclass(frozen=True)
class Case:
    logps: Tensor
    segments: Tensor
    ref_logps: Tensor | None = None
    weights: Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def to(self, *args: Any) -> Case:
        """Floating tensors to a dtype or all tensors to a device."""

        def moved(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value if isinstance(args[0], torch.dtype) and not value.is_floating_point() else value.to(*args)

        options = {name: moved(value) for name, value in self.options.items()}
        tensors = (moved(value) for value in (self.logps, self.segments, self.ref_logps, self.weights))
        return Case(*tensors, options)

    def having(self, **changes: Any) -> Case:
        """The same with other tensors, or other options."""
        tensors = {name: changes.pop(name) for name in list(changes) if name in ("logps", "ref_logps", "weights")}
        return replace(self, **tensors, options=self.options | changes)

    def loss(self) -> PreferenceOutput:
        return weighted_preference_loss(self.logps, self.segments, self.ref_logps, self.weights, **self.options)

    def naive(self) -> Tensor:
        return naive_weighted_preference_loss(self.logps, self.segments, self.ref_logps, self.weights, **self.options)

    def loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        logps = self.logps.detach().requires_grad_()
        loss = self.having(logps=logps).loss().loss
        return loss.detach(), torch.autograd.grad(loss, logps)[0]

    def naive_loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        logps = self.logps.detach().requires_grad_()
        loss = self.having(logps=logps).naive()
        return loss.detach(), torch.autograd.grad(loss, logps)[0]


def offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def random_case(lengths: Sequence[int], seed: int = 0, **options: Any) -> Case:
    """Float32 case of len(lengths) / 2 pairs whose margins are of the order of 10."""
    generator = torch.Generator().manual_seed(seed)
    segments = offsets(lengths)
    logps = -torch.empty(int(segments[-1])).exponential_(generator=generator)
    sums = torch.stack([part.sum() for part in logps.split(list(lengths))])
    ref_logps = sums + 5 * torch.randn(len(lengths), generator=generator)
    weights = torch.empty(len(lengths) // 2).exponential_(generator=generator)
    return Case(logps, segments, ref_logps, weights, options)


PER_PAIR = torch.tensor([0.0, 0.1, 0.45, 0.7])
LOSSES: dict[str, dict[str, Any]] = {
    "dpo": {},
    "conservative dpo": {"label_smoothing": PER_PAIR},
    "dpo with a margin": {"margin": 3 * PER_PAIR - 1, "label_smoothing": 0.2, "beta": 0.5},
    "length-normalised dpo": {"average": True, "beta": 2.0, "margin": 0.5},
    "ipo": {"form": "squared", "average": True},
    "ipo of sums": {"form": "squared", "label_smoothing": PER_PAIR, "beta": 0.3},
    "reward distillation": {"form": "squared", "target": 2 * PER_PAIR - 0.5},
    "hinge": {"form": "hinge", "beta": 0.2, "label_smoothing": 0.1},
}
