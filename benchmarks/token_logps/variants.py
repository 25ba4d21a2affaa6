"""Everything that goes from logits to log-probs of labels, and from their gradient to that of the logits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.suite import Run, Shape, Suite, Variant

NO_GRADIENT, GRADIENT = "no gradient", "gradient"
MODES = (NO_GRADIENT, GRADIENT)
IGNORED = -100

Kernel = Callable[[Tensor, Tensor], Tensor]  # logits [N, V], labels [N] → log-probs [N], 0 at label -100


@dataclass(frozen=True)
class LogitsProblem:
    """
    Attributes:
        logits: [N, V], requires gradients.
        labels: int64 [N], -100 at the prompt.
        upstream: float32 [N], gradient of the log-probs.
    """

    logits: Tensor
    labels: Tensor
    upstream: Tensor


def shapes(device_type: str) -> list[Shape]:
    """`hidden` plays no part."""
    if device_type == "cpu":
        return [Shape("2048x32000", 8, 256, hidden=1, vocab=32000, supervised=0.5, dtype=torch.float32)]
    return [
        Shape("8192x151936", 16, 512, hidden=1, vocab=151936, supervised=0.5),
        Shape("8192x32000", 16, 512, hidden=1, vocab=32000, supervised=0.5),
    ]


def build(shape: Shape, device: torch.device, seed: int) -> LogitsProblem:
    generator = torch.Generator(device).manual_seed(seed)
    like: dict[str, Any] = {"generator": generator, "device": device}
    logits = torch.randn(shape.total_tokens, shape.vocab, dtype=shape.dtype, **like).mul_(2)
    labels = torch.randint(shape.vocab, (shape.sequences, shape.tokens), **like)
    labels[:, : shape.tokens - shape.supervised_per_sequence] = IGNORED
    upstream = torch.randn(shape.total_tokens, **like)
    return LogitsProblem(logits.requires_grad_(), labels.flatten(), upstream)


def size_of(shape: Shape) -> int:
    return shape.total_tokens * shape.vocab * shape.dtype.itemsize


def reference(problem: LogitsProblem, variant: Variant) -> tuple[Tensor, ...]:
    """Row by row block in float32."""
    parts = []
    for logits, labels, upstream in zip(
        problem.logits.detach().split(512), problem.labels.split(512), problem.upstream.split(512), strict=True
    ):
        z = logits.float().requires_grad_()
        logps = log_softmax_gather(z, labels)
        gradient = torch.autograd.grad(logps, z, upstream)[0].to(logits.dtype)
        parts.append((logps.detach(), gradient))
    logps, gradients = (torch.cat(column) for column in zip(*parts, strict=True))
    return (logps,) if variant.mode == NO_GRADIENT else (logps, gradients)


def log_softmax_gather(logits: Tensor, labels: Tensor) -> Tensor:
    kept = labels != IGNORED
    log_p = logits.log_softmax(-1, dtype=torch.float32)
    return log_p.gather(1, labels.where(kept, 0)[:, None])[:, 0] * kept


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return -F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)


def selective(logits: Tensor, labels: Tensor) -> Tensor:
    from trl.trainer.utils import selective_log_softmax

    kept = labels != IGNORED
    return selective_log_softmax(logits, labels.where(kept, 0)) * kept


def ours(logits: Tensor, labels: Tensor) -> Tensor:
    from iwpo_kernels import token_logps

    return token_logps(logits, labels)


def variant(label: str, library: str, mode: str, kernel: Kernel, note: str = "") -> Variant:
    def prepare(problem: LogitsProblem) -> Run:
        def run() -> tuple[Tensor, ...]:
            with torch.no_grad() if mode == NO_GRADIENT else contextlib.nullcontext():
                logps = kernel(problem.logits, problem.labels)
            if mode == NO_GRADIENT:
                return (logps,)
            upstream = problem.upstream.to(logps.dtype)
            return logps.detach(), torch.autograd.grad(logps, problem.logits, upstream)[0]

        return run

    return Variant(label, library, mode, prepare, note=note)


def floor(mode: str) -> Variant:
    """Supervised logits read once; for the gradient read again, and all of it written."""

    def prepare(problem: LogitsProblem) -> Run:
        supervised = problem.logits.detach()[problem.labels != IGNORED]
        gradient = torch.empty_like(problem.logits) if mode == GRADIENT else None
        count = supervised.shape[0]

        def run() -> tuple[Tensor, ...]:
            supervised.amax(1)
            if gradient is not None:
                gradient[:count].copy_(supervised)
                gradient[count:].zero_()
            return ()

        return run

    return Variant("floor", "floor", mode, prepare, note="the memory traffic alone: maximum, copy, fill")


SUITE = Suite(
    name="token_logps",
    modes=MODES,
    baseline="log_softmax, gather",
    shapes=shapes,
    build=build,
    variants=(
        *(floor(mode) for mode in MODES),
        *(variant("ours", "ours", mode, ours) for mode in MODES),
        *(variant("log_softmax, gather", "torch", mode, log_softmax_gather) for mode in MODES),
        *(variant("F.cross_entropy", "torch", mode, cross_entropy) for mode in MODES),
        *(variant("TRL selective_log_softmax", "trl", mode, selective) for mode in MODES),
    ),
    reference=reference,
    size_of=size_of,
)
