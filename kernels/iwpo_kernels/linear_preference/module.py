"""`linear_preference_loss` as a module that holds the options."""

from __future__ import annotations

from typing import Any, Literal

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
        label_smoothing: probability in [0, 1) that a label is flipped.
        average: sequences count by their mean over tokens instead of the sum.
        softcap, scale, temperature, workspace_mb, save: as for `linear_token_logps`.

    A call may bring an option of its own, which then counts.

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
        of_loss = {"form": form, "beta": beta, "label_smoothing": label_smoothing, "average": average}
        of_numerics = {"softcap": softcap, "scale": scale, "temperature": temperature}
        self.options: dict[str, Any] = of_loss | of_numerics | {"workspace_mb": workspace_mb, "save": save}

    def forward(
        self,
        hidden: Tensor,
        head_weight: Tensor,
        labels: Tensor,
        segments: Tensor,
        ref_logps: Tensor | None = None,
        pair_weights: Tensor | None = None,
        **others: Any,
    ) -> PreferenceOutput:
        """`linear_preference_loss` of the same arguments, with the options of this module where a call has none."""
        inputs = (hidden, head_weight, labels, segments, ref_logps, pair_weights)
        return linear_preference_loss(*inputs, **self.options | others)

    def extra_repr(self) -> str:
        shown = ("form", "beta", "label_smoothing", "average")
        return ", ".join(f"{name}={self.options[name]}" for name in shown)
