"""The library's operator where TRL computes log-probs of its fused LM head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import trl
import trl.trainer.utils as trl_utils
from torch import Tensor

from iwpo_kernels import linear_token_logps, linear_token_statistics

PLACE = "_ChunkedLogProbFunction"
"""The name under which TRL's fused LM head looks its operator up at every call, since 1.16."""

PerToken = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Log-probs, entropy, log Σ_v p_v², mean logit, whether the label is the argmax; [N] each, None if not asked for."""


def patch_trl() -> None:
    """Make all trainers of TRL that have a fused LM head use `iwpo_kernels.linear_token_logps`.

    Their results stay what they were, up to rounding: this operator keeps its logits in float32. Heads that DeepSpeed
    has partitioned (ZeRO-3) stay with TRL's operator.

    Raises:
        ValueError: this TRL has no such place.
    """
    setattr(trl_utils, PLACE, _operator_of(_theirs()))


def unpatch_trl() -> None:
    """Give TRL its own operator back."""
    current = getattr(trl_utils, PLACE, None)
    setattr(trl_utils, PLACE, getattr(current, "theirs", current))


@contextmanager
def fused_head() -> Iterator[None]:
    """`patch_trl` for the calls inside alone."""
    before = getattr(trl_utils, PLACE, None)
    patch_trl()
    try:
        yield
    finally:
        setattr(trl_utils, PLACE, before)


def _theirs() -> Any:
    """TRL's operator, whether it is replaced or not."""
    current = getattr(trl_utils, PLACE, None)
    if current is None:
        raise ValueError(
            f"TRL {trl.__version__} has no fused LM head whose operator could be replaced: install trl 1.16 or later."
        )
    return getattr(current, "theirs", current)


def _operator_of(theirs: Any) -> type:
    """What stands in the place of TRL's autograd function, whose `apply` is all that is called."""

    class Operator:
        @staticmethod
        def apply(
            hidden: Tensor,
            weight: Tensor,
            bias: Tensor | None,
            targets: Tensor,
            temperature: float,
            chunk_size: int,
            softcap: float | None = None,
            scale: float = 1.0,
            outputs: tuple[str, ...] = ("log_probs",),
        ) -> PerToken:
            if hasattr(weight, "ds_id"):  # gathered for the forward pass alone
                return theirs.apply(hidden, weight, bias, targets, temperature, chunk_size, softcap, scale, outputs)
            head = {"softcap": softcap, "scale": scale, "temperature": temperature, "all_served": True}
            return _per_token(theirs, *_in_one_type(hidden, weight, bias), targets, head, outputs)

    Operator.theirs = theirs  # type: ignore[attr-defined]
    return Operator


def _per_token(
    theirs: Any,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    head: dict[str, Any],
    outputs: tuple[str, ...],
) -> PerToken:
    if not set(outputs) - {"log_probs"}:
        return linear_token_logps(hidden, weight, targets, bias=bias, **head), None, None, None, None
    found = linear_token_statistics(hidden, weight, targets, bias=bias, **head)
    entropy = None
    if "entropy" in outputs:
        entropy = _Entropy.apply(found.entropy, hidden, weight, bias, targets, theirs, head)
    return (
        found.logps,
        entropy,
        found.sum_p2.log() if "log_sum_sq_probs" in outputs else None,
        found.mean_logit if "mean_logits" in outputs else None,
        found.target_is_argmax if "is_top1" in outputs else None,
    )


class _Entropy(torch.autograd.Function):
    """An entropy that is known already, whose gradient TRL's operator makes if anything asks for it.

    Most trainers only log it; `linear_token_statistics` has no gradient of it.
    """

    @staticmethod
    def forward(ctx: Any, entropy: Tensor, *inputs: Any) -> Tensor:
        ctx.set_materialize_grads(False)
        *tensors, ctx.theirs, ctx.head = inputs
        ctx.save_for_backward(*tensors)
        return entropy.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> Any:
        nothing = (None,) * 7
        if gradient is None:
            return nothing
        *differentiable, targets = ctx.saved_tensors
        given = [None if one is None else one.detach().requires_grad_() for one in differentiable]
        head = ctx.head
        with torch.enable_grad():
            _, entropy, *_ = ctx.theirs.apply(
                *given, targets, head["temperature"], CHUNK, head["softcap"], head["scale"], ("entropy",)
            )
        present = [one for one in given if one is not None]
        gradients = iter(torch.autograd.grad(entropy, present, gradient))
        return None, *(None if one is None else next(gradients) for one in given), None, None, None


CHUNK = 8192
"""Columns of the vocabulary that TRL's operator takes at once."""


def _in_one_type(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The weight in the type of the hidden states, except for float32 master weights, which the operator takes."""
    if weight.dtype not in (hidden.dtype, torch.float32):
        weight = weight.to(hidden.dtype)
    return hidden, weight, None if bias is None else bias.to(weight.dtype)
