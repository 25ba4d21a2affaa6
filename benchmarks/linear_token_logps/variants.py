"""Everything that goes from hidden states and a head to a preference loss and its gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
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

LogProbs = Callable[[Tensor], Tensor]  # head [V, H] → log-probs [N], 0 at the prompt


def _preference_run(problem: HeadProblem, mode: str, logps_of: LogProbs) -> Run:
    return _loss_run(problem, mode, lambda head: preference_loss(logps_of(head), problem.shape.sequences))


def _loss_run(problem: HeadProblem, mode: str, loss_of: Callable[[Tensor], Tensor]) -> Run:
    head = problem.head(mode)

    def run() -> tuple[Tensor, ...]:
        with torch.no_grad() if mode == NO_GRADIENT else contextlib.nullcontext():
            return problem.gradients(loss_of(head), mode)

    return run


def _spread(logps: Tensor, problem: HeadProblem) -> Tensor:
    """[K] of the supervised tokens to [N]."""
    return logps.new_zeros(problem.labels.shape).index_copy(0, problem.supervised, logps)


def ours(mode: str, save: bool, label: str, floor: str = "floor", **settings: Any) -> Variant:
    """As training calls it: with the supervised tokens alone, so that the host waits for nothing.

    `settings` go to the operator.
    """

    def prepare(problem: HeadProblem) -> Run:
        labels = problem.labels[problem.supervised]
        served = {"hidden_index": problem.supervised, "all_served": True}
        logps_of = _our_log_probs(problem, labels, save=save, **served, **settings)
        return _preference_run(problem, mode, lambda head: _spread(logps_of(head), problem))

    return Variant(label, "ours", mode, prepare, floor=floor, note="on supervised tokens")


def ours_masked(mode: str, save: bool) -> Variant:
    """All labels, -100 at the prompts, so that the host waits to hear how many others there are."""

    def prepare(problem: HeadProblem) -> Run:
        return _preference_run(problem, mode, _our_log_probs(problem, problem.labels, save=save))

    return Variant("ours, masked labels", "ours", mode, prepare)


def _our_log_probs(problem: HeadProblem, labels: Tensor, **settings: Any) -> LogProbs:
    """One of each label."""
    from iwpo_kernels import linear_token_logps

    def logps_of(head: Tensor) -> Tensor:
        logps = linear_token_logps(problem.hidden, head, labels, softcap=problem.shape.softcap, **settings)
        return logps

    return logps_of


def ours_whole(mode: str) -> Variant:
    """Log-probs and loss in one call."""

    def prepare(problem: HeadProblem) -> Run:
        from iwpo_kernels import linear_preference_loss

        shape, device = problem.shape, problem.hidden.device
        segments = torch.arange(0, shape.total_tokens + 1, shape.tokens, device=device)

        def loss_of(head: Tensor) -> Tensor:
            return linear_preference_loss(
                problem.hidden, head, problem.labels, segments, softcap=shape.softcap, beta=BETA, save=True
            ).loss

        return _loss_run(problem, mode, loss_of)

    return Variant("ours, linear_preference_loss", "ours", mode, prepare)


def ours_padded(mode: str) -> Variant:
    """With the call of Liger's loss, and all of its metrics."""

    def prepare(problem: HeadProblem) -> Run:
        _without_softcap(problem, "the padded loss")
        from iwpo_kernels import PaddedLinearPreferenceLoss

        loss = PaddedLinearPreferenceLoss(beta=BETA, use_ref_model=False)
        labels = problem.labels.view(problem.shape.sequences, -1)

        def loss_of(head: Tensor) -> Tensor:
            return loss(head, problem.hidden.view(*labels.shape, -1), labels)[0]

        return _loss_run(problem, mode, loss_of)

    return Variant("ours, in Liger's place", "ours", mode, prepare, note="with Liger's metrics")


def naive(mode: str) -> Variant:
    def prepare(problem: HeadProblem) -> Run:
        def logps_of(head: Tensor) -> Tensor:
            return naive_logps(problem.hidden, head, problem.labels, problem.shape.softcap)

        return _preference_run(problem, mode, logps_of)

    return Variant("naive, all tokens", "torch", mode, prepare, note="logits, log_softmax, gather, mask")


def naive_supervised(mode: str) -> Variant:
    def prepare(problem: HeadProblem) -> Run:
        labels = problem.labels[problem.supervised]

        def logps_of(head: Tensor) -> Tensor:
            rows = problem.hidden[problem.supervised]
            return _spread(naive_logps(rows, head, labels, problem.shape.softcap), problem)

        return _preference_run(problem, mode, logps_of)

    return Variant("naive, supervised tokens", "torch", mode, prepare)


def torch_fused(mode: str) -> Variant:
    def prepare(problem: HeadProblem) -> Run:
        _without_softcap(problem, "torch's linear_cross_entropy")
        from torch.nn import LinearCrossEntropyOptions
        from torch.nn.functional import linear_cross_entropy

        options, labels = LinearCrossEntropyOptions(), problem.labels[problem.supervised]

        def loss_of(head: Tensor) -> Tensor:
            rows = problem.hidden[problem.supervised]
            return linear_cross_entropy(rows, head, labels, reduction="sum", options=options)

        return _loss_run(problem, mode, loss_of)

    return Variant(
        "torch linear_cross_entropy",
        "torch",
        mode,
        prepare,
        note="sum over all tokens: it has no per-token results",
        objective=SUM,
    )


def token_chunks(mode: str) -> Variant:
    """NeMo-RL's way, on all tokens, as there."""

    def prepare(problem: HeadProblem) -> Run:
        _without_softcap(problem, "the chunked log-probs of NeMo-RL")

        def logps_of(head: Tensor) -> Tensor:
            return ChunkedLogProbs.apply(problem.hidden, head, problem.labels)

        return _preference_run(problem, mode, logps_of)

    return Variant("NeMo-style chunks", "torch", mode, prepare, note="chunks of tokens, recomputed; on all tokens")


def trl(mode: str) -> Variant:
    """On the supervised tokens only, as TRL calls it on a GPU; on a CPU it scores every token, in about three times."""

    def prepare(problem: HeadProblem) -> Run:
        from trl.kernels import ChunkedLogProbFunction
        from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as CHUNK

        labels = problem.labels[problem.supervised]

        def logps_of(head: Tensor) -> Tensor:
            rows, softcap = problem.hidden[problem.supervised], problem.shape.softcap
            logps, *_ = ChunkedLogProbFunction.apply(rows, head, None, labels, 1.0, CHUNK, softcap, 1.0, ())
            return _spread(logps, problem)

        return _preference_run(problem, mode, logps_of)

    return Variant("TRL chunked", "trl", mode, prepare, note="on supervised tokens")


def liger(mode: str) -> Variant:
    def prepare(problem: HeadProblem) -> Run:
        _without_softcap(problem, "Liger's DPO loss")
        from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

        compiled = problem.hidden.is_cuda
        loss = LigerFusedLinearDPOLoss(beta=BETA, use_ref_model=False, compiled=compiled, ignore_index=IGNORED)
        labels = problem.labels.view(problem.shape.sequences, -1)

        def loss_of(head: Tensor) -> Tensor:
            return loss(head, problem.hidden.view(*labels.shape, -1), labels)[0]

        return _loss_run(problem, mode, loss_of)

    return Variant("Liger fused DPO", "liger", mode, prepare, note="compiled on GPUs only; its reference is off")


def cut_cross_entropy(mode: str) -> Variant:
    def prepare(problem: HeadProblem) -> Run:
        if not problem.hidden.is_cuda:
            raise ImportError("cut-cross-entropy needs a GPU")
        from cut_cross_entropy import linear_cross_entropy

        def logps_of(head: Tensor) -> Tensor:
            softcap = problem.shape.softcap
            return -linear_cross_entropy(
                problem.hidden, head, problem.labels, softcap=softcap, reduction="none"
            ).float()

        return _preference_run(problem, mode, logps_of)

    return Variant("cut-cross-entropy", "cce", mode, prepare, note="its time depends on the data")


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


SUITE = Suite(
    name="linear_token_logps",
    modes=MODES,
    baseline="naive, all tokens",
    shapes=shapes,
    build=build,
    variants=(
        floor(NO_GRADIENT, 1),
        floor(FROZEN, 2),
        floor(TRAINABLE, 3),
        floor(TRAINABLE, 4, "floor with recomputation"),
        ours(NO_GRADIENT, False, "ours"),
        ours(FROZEN, False, "ours"),
        ours(TRAINABLE, True, "ours"),
        ours(TRAINABLE, False, "ours, recomputed", floor="floor with recomputation"),
        *(ours_masked(mode, save=mode == TRAINABLE) for mode in MODES),
        *(ours_whole(mode) for mode in (FROZEN, TRAINABLE)),
        *(ours_padded(mode) for mode in (FROZEN, TRAINABLE)),
        *(naive(mode) for mode in MODES),
        *(naive_supervised(mode) for mode in MODES),
        *(torch_fused(mode) for mode in (FROZEN, TRAINABLE)),
        *(token_chunks(mode) for mode in MODES),
        *(trl(mode) for mode in MODES),
        *(liger(mode) for mode in (FROZEN, TRAINABLE)),
        *(cut_cross_entropy(mode) for mode in MODES),
    ),
    reference=reference,
    size_of=size_of,
)
