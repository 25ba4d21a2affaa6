"""`token_logps` on a GPU."""

from __future__ import annotations

import triton
from torch import Tensor

from iwpo_kernels.launch import launch_options
from iwpo_kernels.token_logps import kernels

# Of one launch: AMD counts threads with 32 bits, and a program has 512.
PROGRAMS = 2**22


def forward(logits: Tensor, labels: Tensor, temperature: float, logps: Tensor, state: Tensor) -> None:
    """Writes logps [N] and state [3, N], as `cpu.forward` does."""
    tokens, vocab = logits.shape
    kernels.token_logps_kernel[(tokens,)](
        logits,
        labels.contiguous(),
        logps,
        state,
        logits.stride(0),
        logits.stride(1),
        tokens,
        vocab,
        1 / temperature,
        BLOCK=kernels.BLOCK,
        **launch_options(kernels.WARPS, kernels.REGISTERS),
    )


def backward(grad: Tensor, logits: Tensor, labels: Tensor, state: Tensor, temperature: float, out: Tensor) -> None:
    """Writes the gradient of logits to `out` [N, V], which may be `logits` itself."""
    tokens, vocab = logits.shape
    blocks = triton.cdiv(vocab, kernels.BLOCK)
    labels, grad = labels.contiguous(), grad.contiguous()
    for start in range(0, tokens, rows_at_once(blocks)):
        rows = slice(start, start + rows_at_once(blocks))
        kernels.token_logps_backward_kernel[(labels[rows].shape[0] * blocks,)](
            out[rows],
            logits[rows],
            labels[rows],
            grad[rows],
            state[:, rows],
            out.stride(0),
            out.stride(1),
            logits.stride(0),
            logits.stride(1),
            tokens,
            vocab,
            1 / temperature,
            BLOCK=kernels.BLOCK,
            **launch_options(kernels.WARPS, kernels.REGISTERS),
        )


def rows_at_once(blocks: int) -> int:
    """A multiple of 16, which leaves aligned rows aligned."""
    return 16 * max(PROGRAMS // (16 * blocks), 1)
