"""`token_logps` on a GPU."""

from __future__ import annotations

import triton
from torch import Tensor

from iwpo_kernels.launch import launch_options
from iwpo_kernels.token_logps import kernels


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
    kernels.token_logps_backward_kernel[(tokens * triton.cdiv(vocab, kernels.BLOCK),)](
        out,
        logits,
        labels.contiguous(),
        grad.contiguous(),
        state,
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
