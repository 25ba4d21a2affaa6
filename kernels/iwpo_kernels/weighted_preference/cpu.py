"""The weighted preference loss on a CPU, in float64 throughout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_kernels.weighted_preference.types import TIE, Forward, PairLoss, PreferenceSums, weighted


def forward(
    logps: Tensor,
    segments: Tensor,
    ref_logps: Tensor | None,
    weights: Tensor | None,
    lengths: Tensor | None,
    loss: PairLoss,
) -> Forward:
    sequence_logps = torch.segment_reduce(logps.double(), "sum", offsets=segments, initial=0.0)
    ratios = sequence_logps if ref_logps is None else sequence_logps - ref_logps
    divisor = torch.ones_like(ratios)
    if loss.average:
        divisor = (segments.diff() if lengths is None else lengths).clamp(min=1).double()
    chosen_score, rejected_score = (ratios / divisor).chunk(2)
    value, slope = pair_loss(chosen_score - rejected_score, loss)

    weight = torch.ones_like(value) if weights is None else weights.double()
    slope = weighted(slope, weight)
    chosen_reward, rejected_reward = (loss.beta * ratios).chunk(2)
    chosen_logps, rejected_logps = sequence_logps.chunk(2)
    rounding = TIE * loss.beta * (chosen_logps.abs() + rejected_logps.abs())
    return Forward(
        sequence_logps=sequence_logps.to(logps.dtype, copy=True),
        coefficients=(torch.cat([slope, -slope]) / divisor).to(logps.dtype),
        sums=torch.stack(
            PreferenceSums.of(weight, value, chosen_reward, rejected_reward, chosen_logps, rejected_logps, rounding)
        ),
    )


def pair_loss(h: Tensor, loss: PairLoss) -> tuple[Tensor, Tensor]:
    """Loss of each pair and its derivative with respect to h, [P]."""
    value, derivative = _closed_form(loss.slope * h - loss.shift, loss.form)
    flipped_value, flipped_derivative = _closed_form(-loss.slope * h - loss.shift, loss.form)
    eps = loss.smoothing.double() if isinstance(loss.smoothing, Tensor) else loss.smoothing
    # A label that is never flipped has no part in the other loss, though that is infinite.
    flipped_value = flipped_value.where(~flipped_value.isinf() | (eps != 0), 0.0)
    return (
        (1 - eps) * value + eps * flipped_value,
        loss.slope * ((1 - eps) * derivative - eps * flipped_derivative),
    )


def _closed_form(x: Tensor, form: str) -> tuple[Tensor, Tensor]:
    if form == "sigmoid":
        return -F.logsigmoid(x), -torch.sigmoid(-x)
    if form == "squared":
        return x.square(), 2 * x
    return torch.relu(-x), -(x < 0).double()


def token_gradient(grad: Tensor, coefficients: Tensor, segments: Tensor, tokens: int) -> Tensor:
    """grad · coefficient of its sequence for each token, [tokens]."""
    return torch.repeat_interleave(grad * coefficients, segments.diff(), output_size=tokens)
