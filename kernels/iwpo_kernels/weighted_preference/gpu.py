"""Launches of the weighted preference loss's Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from iwpo_kernels.weighted_preference.kernels import (
    BLOCK,
    NUM_WARPS,
    weighted_preference_bwd_kernel,
    weighted_preference_fwd_kernel,
)
from iwpo_kernels.weighted_preference.types import Forward, PairLoss, PreferenceSums


def forward(
    logps: Tensor,
    segments: Tensor,
    ref_logps: Tensor | None,
    weights: Tensor | None,
    lengths: Tensor | None,
    loss: PairLoss,
) -> Forward:
    sequences = segments.shape[0] - 1
    pairs = sequences // 2
    sequence_logps = logps.new_empty(sequences)
    coefficients = logps.new_empty(sequences)
    terms = logps.new_empty(len(PreferenceSums._fields), pairs, dtype=torch.float64)
    smoothing = loss.smoothing if isinstance(loss.smoothing, Tensor) else None
    shift = loss.shift if isinstance(loss.shift, Tensor) else None
    optional = (ref_logps, weights, lengths, smoothing, shift)
    dense = [None if tensor is None else tensor.contiguous() for tensor in optional]
    with torch.cuda.device_of(logps):
        weighted_preference_fwd_kernel[(pairs,)](
            logps.contiguous(),
            segments.contiguous(),
            # A tensor that is absent is never read: any pointer of its type will do.
            *(
                like if tensor is None else tensor
                for tensor, like in zip(dense, (logps, logps, segments, logps, logps), strict=True)
            ),
            sequence_logps,
            coefficients,
            terms,
            logps.shape[0],
            0.0 if smoothing is not None else loss.smoothing,
            0.0 if shift is not None else loss.shift,
            loss.slope,
            loss.beta,
            *(int(tensor is not None) for tensor in optional),
            int(loss.average),
            FORM=loss.form,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
    return Forward(sequence_logps, coefficients, terms.sum(1))


def token_gradient(grad: Tensor, coefficients: Tensor, segments: Tensor, tokens: int) -> Tensor:
    """grad · coefficient of its sequence for each token, [tokens]; 0 where no sequence has it."""
    token_grads = coefficients.new_zeros(tokens)
    with torch.cuda.device_of(coefficients):
        weighted_preference_bwd_kernel[coefficients.shape](
            grad, coefficients, segments.contiguous(), token_grads, tokens, BLOCK=BLOCK, num_warps=NUM_WARPS
        )
    return token_grads
