"""Optimiser and schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from iwpo_fast.limits import BELOW_ONE, FRACTION, NOT_NEGATIVE, POSITIVE, POSITIVE_OR_INFINITE


@dataclass
class OptimConfig:
    """Optimiser and schedule.

    Args:
        name: `adamw_8bit` keeps AdamW's two moments in 8 bits each instead of 32 (pip install 'iwpo-fast[8bit]').
        lr: Peak learning rate.
        epochs: Passes over the training pairs.
        max_steps: Stop after this many optimiser steps; null runs all epochs.
        pairs_per_step: Pairs of one optimiser step, over all ranks and micro-batches.
        tokens_per_batch: Token budget of one micro-batch. A prompt that the model runs once for both completions counts
            once; a pair that is longer than the budget runs alone.
        max_pairs_per_batch: Cap on the pairs of one micro-batch; null leaves it to the token budget.
        schedule: Decay after the warm-up.
        warmup_fraction: Fraction of all steps over which the learning rate rises.
        min_lr_fraction: The learning rate ends at this fraction of `lr`.
        betas: AdamW's running-average coefficients.
        eps: AdamW's denominator offset.
        weight_decay: Decoupled weight decay of matrices; vectors (norms, biases) have none.
        max_grad_norm: Gradients are scaled down to this global norm; null leaves them alone.
    """

    name: Literal["adamw", "adamw_8bit"] = "adamw"
    lr: Annotated[float, POSITIVE] = 1e-6
    epochs: Annotated[float, POSITIVE] = 1.0
    max_steps: Annotated[int, POSITIVE] | None = None
    pairs_per_step: Annotated[int, POSITIVE] = 32
    tokens_per_batch: Annotated[int, POSITIVE] = 16384
    max_pairs_per_batch: Annotated[int, POSITIVE] | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_fraction: Annotated[float, FRACTION] = 0.1
    min_lr_fraction: Annotated[float, FRACTION] = 0.0
    betas: tuple[Annotated[float, BELOW_ONE], Annotated[float, BELOW_ONE]] = (0.9, 0.95)
    eps: Annotated[float, POSITIVE] = 1e-8
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    max_grad_norm: Annotated[float, POSITIVE_OR_INFINITE] | None = 1.0
