"""Everything that goes from log-probs of tokens to a weighted preference loss and its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.suite import Run, Shape, Suite, Variant

BETA = 0.1
GRADIENT = "gradient"


@dataclass(frozen=True)
class PairProblem:
    """Sequences of random length, chosen ones first.

    Attributes:
        logps: float32 [N], requires gradients.
        segments: int64 [2P + 1], offsets of the sequences.
        sequence: int64 [N], which sequence each token is of.
        ref_logps: float32 [2P].
        weights: float32 [P], mean 1.
        smoothing: float32 [P], ε.
    """

    logps: Tensor
    segments: Tensor
    sequence: Tensor
    ref_logps: Tensor
    weights: Tensor
    smoothing: Tensor


def shapes(device_type: str) -> list[Shape]:
    """Only `sequences` and `tokens`, the longest sequence, matter."""
    sizes = ((16, 1024), (256, 1024), (4096, 1024))
    return [Shape(f"{n // 2}-pairs", n, tokens, hidden=1, vocab=2, dtype=torch.float32) for n, tokens in sizes]


def build(shape: Shape, device: torch.device, seed: int) -> PairProblem:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shape.tokens // 4, shape.tokens + 1, (shape.sequences,), generator=generator)
    segments = torch.tensor([0, *accumulate(lengths.tolist())])
    logps = -torch.randn(int(segments[-1]), generator=generator).square()
    pairs = shape.sequences // 2
    weights = torch.rand(pairs, generator=generator) * 2
    return PairProblem(
        logps=logps.to(device).requires_grad_(),
        segments=segments.to(device),
        sequence=torch.repeat_interleave(lengths).to(device),
        ref_logps=(torch.randn(shape.sequences, generator=generator) * 5 - lengths).to(device),
        weights=(weights / weights.mean()).to(device),
        smoothing=(torch.rand(pairs, generator=generator) / 2).to(device),
    )


def size_of(shape: Shape) -> int:
    return 4 * shape.total_tokens  # log-probs; the rest is small


def plain_loss(problem: PairProblem, logps: Tensor) -> Tensor:
    """In plain PyTorch, in the precision of logps."""
    scores = logps.new_zeros(problem.ref_logps.shape).index_add(0, problem.sequence, logps) - problem.ref_logps
    chosen, rejected = scores.chunk(2)
    h, smoothing = BETA * (chosen - rejected), problem.smoothing
    losses = -(1 - smoothing) * F.logsigmoid(h) - smoothing * F.logsigmoid(-h)
    return (problem.weights * losses).mean()


def _loss_and_gradient(loss: Tensor, logps: Tensor) -> tuple[Tensor, ...]:
    return loss.detach(), torch.autograd.grad(loss, logps)[0]


def reference(problem: PairProblem, variant: Variant) -> tuple[Tensor, ...]:
    logps = problem.logps.detach().double().requires_grad_()
    return _loss_and_gradient(plain_loss(problem, logps), logps)


def plain(problem: PairProblem) -> Run:
    return lambda: _loss_and_gradient(plain_loss(problem, problem.logps), problem.logps)


def ours(problem: PairProblem) -> Run:
    from iwpo_kernels import weighted_preference_loss

    def run() -> tuple[Tensor, ...]:
        loss = weighted_preference_loss(
            problem.logps,
            problem.segments,
            problem.ref_logps,
            problem.weights,
            beta=BETA,
            label_smoothing=problem.smoothing,
        ).loss
        return _loss_and_gradient(loss, problem.logps)

    return run


def floor(problem: PairProblem) -> Run:
    """Each log-prob read once and its gradient written once."""
    logps = problem.logps.detach()
    gradient = torch.empty_like(logps)

    def run() -> tuple[Tensor, ...]:
        gradient.copy_(logps)
        return ()

    return run


SUITE = Suite(
    name="weighted_preference",
    baseline="naive",
    shapes=shapes,
    build=build,
    variants=(
        Variant("floor", "floor", GRADIENT, floor, note="one copy of the log-probs"),
        Variant("ours", "ours", GRADIENT, ours, note="with sums for all metrics, accumulated in float64"),
        Variant("naive", "torch", GRADIENT, plain, note="loss only, no metrics"),
    ),
    reference=reference,
    size_of=size_of,
)
