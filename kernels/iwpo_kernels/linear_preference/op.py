"""`linear_preference_loss`: from hidden states to the weighted preference loss in one call."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from iwpo_kernels.checks import check_index, check_switch
from iwpo_kernels.constants import IGNORED
from iwpo_kernels.linear_token_logps import linear_token_logps
from iwpo_kernels.weighted_preference import PreferenceOutput, weighted_preference_loss
from iwpo_kernels.weighted_preference.op import check_options
from iwpo_kernels.weighted_preference.types import Form


def linear_preference_loss(
    hidden: Tensor,
    head_weight: Tensor,
    labels: Tensor,
    segments: Tensor,
    ref_logps: Tensor | None = None,
    pair_weights: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    hidden_index: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    temperature: float = 1.0,
    workspace_mb: int = 256,
    save: bool | Literal["auto"] = "auto",
    all_served: bool = False,
    form: Form = "sigmoid",
    beta: float = 0.1,
    label_smoothing: Tensor | float | None = None,
    margin: Tensor | float | None = None,
    target: Tensor | float | None = None,
    average: bool = False,
    denominator: Tensor | float | None = None,
) -> PreferenceOutput:
    """Weighted preference loss of P pairs from hidden states and the head's weight, without logits.

    `linear_token_logps` followed by `weighted_preference_loss`; see there for the formulas and for every option.
    The loss is differentiable with respect to hidden, head_weight and bias.

    Args:
        hidden: [T, H], bfloat16, float16 or float32 (float64 on a CPU); or [..., H] with labels [...], read row by row.
        head_weight: [V, H], the LM head, as for `linear_token_logps`.
        labels: int64 [N], tokens of the 2P sequences end to end, chosen sequences first; -100 is skipped.
        segments: int64 [2P + 1], sequence s is labels[segments[s]:segments[s + 1]].
        ref_logps: float32 [2P], reference log-prob of each sequence, from the same operator. None: no reference.
        pair_weights: float32 [P], importance weight of each pair. None means 1.
        bias, hidden_index, softcap, scale, temperature, workspace_mb, save, all_served: as for `linear_token_logps`.
        form, beta, label_smoothing, margin, target, average, denominator: as for `weighted_preference_loss`;
            `average` divides by the labels that are not -100.

    Raises:
        TypeError, ValueError: as the two operators do.
    """
    check_options(form, beta, label_smoothing, margin, target)
    check_switch("average", average)
    logps = linear_token_logps(
        hidden,
        head_weight,
        labels,
        bias=bias,
        hidden_index=hidden_index,
        softcap=softcap,
        scale=scale,
        temperature=temperature,
        workspace_mb=workspace_mb,
        save=save,
        all_served=all_served,
    ).flatten()
    check_index("segments", segments, logps, "offset")
    return weighted_preference_loss(
        logps,
        segments,
        ref_logps,
        pair_weights,
        form=form,
        beta=beta,
        label_smoothing=label_smoothing,
        margin=margin,
        target=target,
        average=average,
        lengths=supervised_lengths(labels.flatten(), segments) if average and not all_served else None,
        denominator=denominator,
    )


def supervised_lengths(labels: Tensor, segments: Tensor) -> Tensor:
    """int64 [S], labels other than -100 in each segment."""
    before = F.pad((labels != IGNORED).cumsum(0), (1, 0))
    return before[segments.clamp(0, labels.shape[0])].diff()
