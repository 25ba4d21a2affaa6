"""Everything that goes from hidden states and a head to a preference loss and its gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.linear_token_logps.problem import (
    BETA,
    FROZEN,
    IGNORED,
    MODES,
    NO_GRADIENT,
    SUM,
    TRAINABLE,
    HeadProblem,
    build,
    naive_logps,
    preference_loss,
    reference,
    size_of,
)
from benchmarks.linear_token_logps.shapes import shapes
from benchmarks.linear_token_logps.token_chunks import ChunkedLogProbs
from benchmarks.suite import Run, Suite, Variant

WITH_GRADIENT = (FROZEN, TRAINABLE)
OfHead = Callable[[Tensor], Tensor]  # head [V, H] → loss [], or log-probs
Make = Callable[[HeadProblem], OfHead]  # imports and allocates what the loss needs


def by_mode(label: str, library: str, make: Make, modes: Iterable[str] = MODES, **fields: Any) -> list[Variant]:
    """A variant for each mode; `fields` are further ones of `Variant`."""
    return [Variant(label, library, mode, partial(_prepare, make, mode), **fields) for mode in modes]


def _prepare(make: Make, mode: str, problem: HeadProblem) -> Run:
    head, loss_of = problem.head(mode), make(problem)

    def run() -> tuple[Tensor, ...]:
        with torch.no_grad() if mode == NO_GRADIENT else contextlib.nullcontext():
            return problem.gradients(loss_of(head), mode)

    return run


def _of_logps(problem: HeadProblem, logps_of: OfHead) -> OfHead:
    """The loss of log-probs [N], 0 at the prompt."""
    return lambda head: preference_loss(logps_of(head), problem.shape.sequences)


def _of_supervised(problem: HeadProblem, logps_of: Callable[[Tensor, Tensor, Tensor], Tensor]) -> OfHead:
    """The loss of log-probs [K] of the supervised tokens, from their hidden states, a head and their labels."""
    labels = problem.labels[problem.supervised]

    def spread(head: Tensor) -> Tensor:
        logps = logps_of(problem.hidden[problem.supervised], head, labels)
        return logps.new_zeros(problem.labels.shape).index_copy(0, problem.supervised, logps)

    return _of_logps(problem, spread)


def ours(problem: HeadProblem, *, save: bool) -> OfHead:
    """As training calls it: with the supervised tokens alone, so that the host waits for nothing."""
    from iwpo_kernels import linear_token_logps

    labels, index, softcap = problem.labels[problem.supervised], problem.supervised, problem.shape.softcap

    def spread(head: Tensor) -> Tensor:
        logps = linear_token_logps(
            problem.hidden, head, labels, softcap=softcap, save=save, hidden_index=index, all_served=True
        )
        return logps.new_zeros(problem.labels.shape).index_copy(0, index, logps)

    return _of_logps(problem, spread)


def ours_masked(problem: HeadProblem, *, save: bool) -> OfHead:
    """All labels, -100 at the prompts, so that the host waits to hear how many others there are."""
    from iwpo_kernels import linear_token_logps

    hidden, labels, softcap = problem.hidden, problem.labels, problem.shape.softcap
    return _of_logps(problem, lambda head: linear_token_logps(hidden, head, labels, softcap=softcap, save=save))


def ours_whole(problem: HeadProblem) -> OfHead:
    """Log-probs and loss in one call."""
    from iwpo_kernels import linear_preference_loss

    shape, device = problem.shape, problem.hidden.device
    segments = torch.arange(0, shape.total_tokens + 1, shape.tokens, device=device)
    settings: dict[str, Any] = {"softcap": shape.softcap, "beta": BETA, "save": True}
    return lambda head: linear_preference_loss(problem.hidden, head, problem.labels, segments, **settings).loss


def ours_padded(problem: HeadProblem) -> OfHead:
    """With the call of Liger's loss, and all of its metrics."""
    _without_softcap(problem, "the padded loss")
    from iwpo_kernels import PaddedLinearPreferenceLoss

    return _padded(problem, PaddedLinearPreferenceLoss(beta=BETA, use_ref_model=False))


def liger(problem: HeadProblem) -> OfHead:
    _without_softcap(problem, "Liger's DPO loss")
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

    compiled = problem.hidden.is_cuda
    return _padded(
        problem, LigerFusedLinearDPOLoss(beta=BETA, use_ref_model=False, compiled=compiled, ignore_index=IGNORED)
    )


def _padded(problem: HeadProblem, loss: Callable[..., tuple[Tensor, Any]]) -> OfHead:
    labels = problem.labels.view(problem.shape.sequences, -1)
    return lambda head: loss(head, problem.hidden.view(*labels.shape, -1), labels)[0]


def naive(problem: HeadProblem) -> OfHead:
    hidden, labels, softcap = problem.hidden, problem.labels, problem.shape.softcap
    return _of_logps(problem, lambda head: naive_logps(hidden, head, labels, softcap))


def naive_supervised(problem: HeadProblem) -> OfHead:
    return _of_supervised(problem, lambda x, head, labels: naive_logps(x, head, labels, problem.shape.softcap))


def torch_fused(problem: HeadProblem) -> OfHead:
    _without_softcap(problem, "torch's linear_cross_entropy")
    from torch.nn import LinearCrossEntropyOptions
    from torch.nn.functional import linear_cross_entropy

    options, labels = LinearCrossEntropyOptions(), problem.labels[problem.supervised]

    def loss_of(head: Tensor) -> Tensor:
        rows = problem.hidden[problem.supervised]
        return linear_cross_entropy(rows, head, labels, reduction="sum", options=options)

    return loss_of


def token_chunks(problem: HeadProblem) -> OfHead:
    """NeMo-RL's way, on all tokens, as there."""
    _without_softcap(problem, "the chunked log-probs of NeMo-RL")
    return _of_logps(problem, lambda head: ChunkedLogProbs.apply(problem.hidden, head, problem.labels))


def trl(problem: HeadProblem) -> OfHead:
    """On the supervised tokens only, as TRL calls it on a GPU; on a CPU it scores every token, in about three times."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as CHUNK

    def logps_of(rows: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        softcap = problem.shape.softcap
        logps, *_ = ChunkedLogProbFunction.apply(rows, head, None, labels, 1.0, CHUNK, softcap, 1.0, ())
        return logps

    return _of_supervised(problem, logps_of)


def cut_cross_entropy(problem: HeadProblem) -> OfHead:
    if not problem.hidden.is_cuda:
        raise ImportError("cut-cross-entropy needs a GPU")
    from cut_cross_entropy import linear_cross_entropy

    settings: dict[str, Any] = {"softcap": problem.shape.softcap, "reduction": "none"}
    hidden, labels = problem.hidden, problem.labels
    return _of_logps(problem, lambda head: -linear_cross_entropy(hidden, head, labels, **settings).float())


def floor(mode: str, products: int, label: str = "floor") -> Variant:
    """The bare products that the row of the cost table needs, into memory that exists."""

    def prepare(problem: HeadProblem) -> Run:
        rows = problem.hidden.detach()[problem.supervised]
        head = problem.frozen
        logits = problem.logits_buffer
        grad_rows, grad_head = torch.empty_like(rows), torch.empty_like(head) if mode == TRAINABLE else None

        def run() -> tuple[Tensor, ...]:
            torch.mm(rows, head.t(), out=logits)
            if products == 4:
                torch.mm(rows, head.t(), out=logits)
            if products >= 2:
                torch.mm(logits, head, out=grad_rows)
            if grad_head is not None:
                torch.mm(logits.t(), rows, out=grad_head)
            return ()

        return run

    return Variant(label, "floor", mode, prepare, floor=label, note=f"{products} bare products of N·V·H")


def _without_softcap(problem: HeadProblem, who: str) -> None:
    if problem.shape.softcap is not None:
        raise ImportError(f"{who} has no softcap")


RECOMPUTED, SAVED = partial(ours, save=False), partial(ours, save=True)
OURS = {"library": "ours", "note": "on supervised tokens"}
WITHOUT_HEAD = (NO_GRADIENT, FROZEN)  # whose gradients need no exponentials again

SUITE = Suite(
    name="linear_token_logps",
    baseline="naive, all tokens",
    shapes=shapes,
    build=build,
    variants=(
        floor(NO_GRADIENT, 1),
        floor(FROZEN, 2),
        floor(TRAINABLE, 3),
        floor(TRAINABLE, 4, "floor with recomputation"),
        *by_mode("ours", make=RECOMPUTED, modes=WITHOUT_HEAD, **OURS),
        *by_mode("ours", make=SAVED, modes=[TRAINABLE], **OURS),
        *by_mode("ours, recomputed", make=RECOMPUTED, modes=[TRAINABLE], floor="floor with recomputation", **OURS),
        *by_mode("ours, masked labels", "ours", partial(ours_masked, save=False), WITHOUT_HEAD),
        *by_mode("ours, masked labels", "ours", partial(ours_masked, save=True), [TRAINABLE]),
        *by_mode("ours, linear_preference_loss", "ours", ours_whole, WITH_GRADIENT),
        *by_mode("ours, in Liger's place", "ours", ours_padded, WITH_GRADIENT, note="with Liger's metrics"),
        *by_mode("naive, all tokens", "torch", naive, note="logits, log_softmax, gather, mask"),
        *by_mode("naive, supervised tokens", "torch", naive_supervised),
        *by_mode(
            "torch linear_cross_entropy",
            "torch",
            torch_fused,
            WITH_GRADIENT,
            note="sum over all tokens: it has no per-token results",
            objective=SUM,
        ),
        *by_mode("NeMo-style chunks", "torch", token_chunks, note="chunks of tokens, recomputed; on all tokens"),
        *by_mode("TRL chunked", "trl", trl, note="on supervised tokens"),
        *by_mode("Liger fused DPO", "liger", liger, WITH_GRADIENT, note="compiled on GPUs only; its reference is off"),
        *by_mode("cut-cross-entropy", "cce", cut_cross_entropy, note="its time depends on the data"),
    ),
    reference=reference,
    size_of=size_of,
)
