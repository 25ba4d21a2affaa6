"""`linear_preference_loss` as a module that holds the options."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from iwpo_kernels.linear_preference.op import linear_preference_loss
from iwpo_kernels.linear_token_logps.arguments import check_settings
from iwpo_kernels.weighted_preference import PreferenceOutput
from iwpo_kernels.weighted_preference.op import check_options
from iwpo_kernels.weighted_preference.types import Form


class LinearPreferenceLoss(torch.nn.Module):
    """`linear_preference_loss` with its options set once.

    Args:
        form: "sigmoid", "squared" or "hinge".
        beta: strength of the pull towards the reference.
        label_smoothing: probability in [0, 1) that a label is flipped; a call may bring its own.
        average: sequences count by their mean over tokens instead of the sum.
        softcap, scale, temperature, workspace_mb, save: as for `linear_token_logps`.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        form: Form = "sigmoid",
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        average: bool = False,
        softcap: float | None = None,
        scale: float = 1.0,
        temperature: float = 1.0,
        workspace_mb: int = 256,
        save: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        check_options(form, beta, label_smoothing)
        check_settings(softcap, scale, temperature, workspace_mb, save)
        self.form: Form = form
        self.beta = beta
        self.label_smoothing = label_smoothing
        self.average = average
        self.softcap = softcap
        self.scale = scale
        self.temperature = temperature
        self.workspace_mb = workspace_mb
        self.save: bool | Literal["auto"] = save

    def forward(
        self,
        hidden: Tensor,
        head_weight: Tensor,
        labels: Tensor,
        segments: Tensor,
        ref_logps: Tensor | None = None,
        pair_weights: Tensor | None = None,
        *,
        bias: Tensor | None = None,
        hidden_index: Tensor | None = None,
        all_served: bool = False,
        label_smoothing: Tensor | float | None = None,
        margin: Tensor | float | None = None,
        target: Tensor | float | None = None,
        denominator: Tensor | float | None = None,
    ) -> PreferenceOutput:
        """`linear_preference_loss` of the same arguments, with the options of this module."""
        return linear_preference_loss(
            hidden,
            head_weight,
            labels,
            segments,
            ref_logps,
            pair_weights,
            bias=bias,
            hidden_index=hidden_index,
            softcap=self.softcap,
            scale=self.scale,
            temperature=self.temperature,
            workspace_mb=self.workspace_mb,
            save=self.save,
            all_served=all_served,
            form=self.form,
            beta=self.beta,
            label_smoothing=self.label_smoothing if label_smoothing is None else label_smoothing,
            margin=margin,
            target=target,
            average=self.average,
            denominator=denominator,
        )

    def extra_repr(self) -> str:
        return f"form={self.form}, beta={self.beta}, label_smoothing={self.label_smoothing}, average={self.average}"
