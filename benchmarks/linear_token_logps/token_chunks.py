"""Log-probs by chunks of tokens, the idea of NeMo-RL's fused linear log-probs, written anew.

A chunk's logits are made, widened to float32 and reduced; the backward pass makes them again. One chunk is in memory at
a time. NeMo-RL's products of the backward pass are of float32 operands; here they are of the head's type, which is
faster, with float32 sums over chunks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.linear_token_logps.problem import IGNORED, log_probs_of

CHUNK = 256  # tokens; the default of NeMo-RL


class ChunkedLogProbs(torch.autograd.Function):
    """hidden [N, H], weight [V, H], labels [N] → float32 [N], 0 at label -100."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight, labels)
        chunks = zip(hidden.split(CHUNK), labels.split(CHUNK), strict=True)
        return torch.cat([log_probs_of((x @ weight.t()).float(), wanted) for x, wanted in chunks])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor | None, None]:
        hidden, weight, labels = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        trains = ctx.needs_input_grad[1]
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if trains else None
        for start in range(0, len(hidden), CHUNK):
            here = slice(start, start + CHUNK)
            pull = _gradient_of_logits(hidden[here], weight, labels[here], upstream[0][here])
            torch.mm(pull, weight, out=grad_hidden[here])
            if grad_weight is not None:
                grad_weight += pull.t() @ hidden[here]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None


def _gradient_of_logits(hidden: Tensor, weight: Tensor, labels: Tensor, upstream: Tensor) -> Tensor:
    """upstream · (one-hot − p) [n, V] in the type of hidden."""
    pull = (hidden @ weight.t()).float().softmax(-1).neg_()
    kept = labels != IGNORED
    pull.scatter_add_(1, labels.where(kept, 0)[:, None], torch.ones_like(pull[:, :1]))
    return pull.mul_((upstream * kept)[:, None]).to(hidden.dtype)
