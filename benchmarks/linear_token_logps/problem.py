"""Hidden states, a head and labels at random, and the right answer in float32."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from benchmarks.suite import Shape, Variant

IGNORED = -100
BETA = 0.1
LOGIT_SPREAD = 2.0  # standard deviation of the logits, about that of a language model

NO_GRADIENT, FROZEN, TRAINABLE = "no gradient", "frozen head", "trainable head"
SUM = "sum"  # objective of variants that know no preference loss: −Σ log p
MODES = (NO_GRADIENT, FROZEN, TRAINABLE)


@dataclass(frozen=True)
class HeadProblem:
    """A batch of preference pairs at the LM head.

    Attributes:
        hidden: [N, H], requires gradients.
        frozen: [V, H] head without gradients.
        trainable: the same storage, requires gradients.
        labels: int64 [N], -100 at the prompt.
        supervised: int64 [K], where labels are not -100.
    """

    shape: Shape
    hidden: Tensor
    frozen: Tensor
    trainable: Tensor
    labels: Tensor
    supervised: Tensor

    def head(self, mode: str) -> Tensor:
        return self.trainable if mode == TRAINABLE else self.frozen

    @cached_property
    def logits_buffer(self) -> Tensor:
        """[K, V], shared by all floors."""
        return self.frozen.new_empty(self.supervised.shape[0], self.shape.vocab)

    def gradients(self, loss: Tensor, mode: str) -> tuple[Tensor, ...]:
        """The loss and the gradients that the mode asks for."""
        if mode == NO_GRADIENT:
            return (loss,)
        inputs = (self.hidden,) if mode == FROZEN else (self.hidden, self.trainable)
        return (loss.detach(), *torch.autograd.grad(loss, inputs))


def build(shape: Shape, device: torch.device, seed: int) -> HeadProblem:
    generator = torch.Generator(device).manual_seed(seed)
    like: dict[str, Any] = {"generator": generator, "device": device, "dtype": shape.dtype}
    hidden = torch.randn(shape.total_tokens, shape.hidden, **like)
    frozen = torch.randn(shape.vocab, shape.hidden, **like).mul_(LOGIT_SPREAD / shape.hidden**0.5)
    labels = torch.randint(shape.vocab, (shape.sequences, shape.tokens), generator=generator, device=device)
    labels[:, : shape.tokens - shape.supervised_per_sequence] = IGNORED
    labels = labels.flatten()
    return HeadProblem(
        shape=shape,
        hidden=hidden.requires_grad_(),
        frozen=frozen,
        trainable=frozen.detach().requires_grad_(),
        labels=labels,
        supervised=(labels != IGNORED).nonzero()[:, 0],
    )


def size_of(shape: Shape) -> int:
    return (shape.total_tokens + shape.vocab) * shape.hidden * shape.dtype.itemsize


def preference_loss(logps: Tensor, sequences: int) -> Tensor:
    """DPO with a reference of log-prob 0 for every sequence, which all peers can be asked for.

    Args:
        logps: [N] per token, 0 at the prompt; all sequences are equally long, chosen ones first.
    """
    chosen, rejected = logps.view(sequences, -1).sum(1).chunk(2)
    return -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()


def naive_logps(hidden: Tensor, weight: Tensor, labels: Tensor, softcap: float | None) -> Tensor:
    """Log-probs [N] in float32 by way of all logits; labels may be -100."""
    logits = torch.nn.functional.linear(hidden, weight)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return log_probs_of(logits, labels)


def log_probs_of(logits: Tensor, labels: Tensor) -> Tensor:
    """float32 [N] of labels, 0 where a label is -100, by way of all log-probs."""
    kept = labels != IGNORED
    log_p = logits.log_softmax(-1, dtype=torch.float32)
    return log_p.gather(1, labels.where(kept, 0)[:, None])[:, 0] * kept


def reference(problem: HeadProblem, variant: Variant) -> tuple[Tensor, ...]:
    """Loss, ∂/∂hidden and ∂/∂head as the mode asks, pair by pair in float32, so that it fits where logits do not."""
    shape, trains = problem.shape, variant.mode == TRAINABLE
    pairs = shape.sequences // 2
    hidden = problem.hidden.detach().view(2, pairs, shape.tokens, -1)
    labels = problem.labels.view(2, pairs, shape.tokens)
    weight = problem.frozen.float()
    grad_hidden = torch.zeros_like(hidden, dtype=torch.float32)
    grad_weight = torch.zeros_like(weight) if trains else None
    loss = weight.new_zeros(())
    for pair in range(pairs):
        x = hidden[:, pair].flatten(0, 1).float().requires_grad_(variant.mode != NO_GRADIENT)
        w = weight.detach().requires_grad_(trains)
        logps = naive_logps(x, w, labels[:, pair].flatten(), shape.softcap)
        part = -logps.sum() if variant.objective == SUM else preference_loss(logps, 2) / pairs
        loss += part.detach()
        if variant.mode != NO_GRADIENT:
            inputs = [x, w] if trains else [x]
            grad_x, *grad_w = torch.autograd.grad(part, inputs)
            grad_hidden[:, pair] = grad_x.view_as(grad_hidden[:, pair])
            if grad_weight is not None:
                grad_weight += grad_w[0]
    gradients = (grad_hidden.view_as(problem.hidden), grad_weight)
    kept = {NO_GRADIENT: 0, FROZEN: 1, TRAINABLE: 2}[variant.mode]
    return (loss, *(gradient for gradient in gradients[:kept] if gradient is not None))
