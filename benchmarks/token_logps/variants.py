"""Everything that goes from logits to log-probs of labels, and from their gradient to that of the logits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.linear_token_logps.problem import IGNORED, log_probs_of
from benchmarks.suite import Run, Shape, Suite, Variant

NO_GRADIENT, GRADIENT = "no gradient", "gradient"
MODES = (NO_GRADIENT, GRADIENT)

Kernel = Callable[[Tensor, Tensor], Tensor]  # logits [N, V], labels [N] → log-probs [N], 0 at label -100


# Logits [N, V], which require gradients; int64 labels [N], -100 at the prompt; float32 [N], gradient of the log-probs.
LogitsProblem = tuple[Tensor, Tensor, Tensor]


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
    return logits.requires_grad_(), labels.flatten(), upstream


def size_of(shape: Shape) -> int:
    return shape.total_tokens * shape.vocab * shape.dtype.itemsize


def reference(problem: LogitsProblem, variant: Variant) -> tuple[Tensor, ...]:
    """Row by row block in float32."""
    parts = []
    for logits, labels, upstream in zip(*(part.detach().split(512) for part in problem), strict=True):
        z = logits.float().requires_grad_()
        logps = log_probs_of(z, labels)
        gradient = torch.autograd.grad(logps, z, upstream)[0].to(logits.dtype)
        parts.append((logps.detach(), gradient))
    logps, gradients = (torch.cat(column) for column in zip(*parts, strict=True))
    return (logps,) if variant.mode == NO_GRADIENT else (logps, gradients)


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
        logits, labels, upstream = problem

        def run() -> tuple[Tensor, ...]:
            with torch.no_grad() if mode == NO_GRADIENT else contextlib.nullcontext():
                logps = kernel(logits, labels)
            if mode == NO_GRADIENT:
                return (logps,)
            return logps.detach(), torch.autograd.grad(logps, logits, upstream.to(logps.dtype))[0]

        return run

    return Variant(label, library, mode, prepare, note=note)


def floor(mode: str) -> Variant:
    """Supervised logits read once; for the gradient read again, and all of it written."""

    def prepare(problem: LogitsProblem) -> Run:
        logits, labels, _ = problem
        supervised = logits.detach()[labels != IGNORED]
        gradient = torch.empty_like(logits) if mode == GRADIENT else None
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
    baseline="log_softmax, gather",
    shapes=shapes,
    build=build,
    variants=(
        *(floor(mode) for mode in MODES),
        *(variant("ours", "ours", mode, ours) for mode in MODES),
        *(variant("log_softmax, gather", "torch", mode, log_probs_of) for mode in MODES),
        *(variant("F.cross_entropy", "torch", mode, cross_entropy) for mode in MODES),
        *(variant("TRL selective_log_softmax", "trl", mode, selective) for mode in MODES),
    ),
    reference=reference,
    size_of=size_of,
)
