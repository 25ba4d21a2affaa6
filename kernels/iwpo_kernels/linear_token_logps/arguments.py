"""What `linear_token_logps` accepts."""

from __future__ import annotations

import torch
from torch import Tensor

from iwpo_kernels.checks import (
    FLOATING,
    LARGEST,
    SMALLEST,
    check,
    check_device,
    check_floating,
    check_index,
    check_no_tangent,
    check_number,
    check_positive,
    check_switch,
    check_tensor,
)


def as_linear_layer(
    hidden: Tensor, head_weight: Tensor, labels: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, torch.Size]:
    """The tensors in the types that a linear layer has them in under autocast, hidden states and labels in rows; and
    the shape that the labels had.

    Float32 weights stay as they are beside 16-bit hidden states, because the operator takes them as master weights.
    """
    for name, tensor in (("hidden", hidden), ("head_weight", head_weight), ("labels", labels)):
        check_tensor(name, tensor)
    device = hidden.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and hidden.dtype in FLOATING:
        hidden = hidden.to(torch.get_autocast_dtype(device))
        if head_weight.dtype in FLOATING and head_weight.dtype not in (hidden.dtype, torch.float32):
            head_weight = head_weight.to(hidden.dtype)
        if isinstance(bias, Tensor) and bias.dtype in FLOATING:
            bias = bias.to(hidden.dtype)
    shape = labels.shape
    if hidden.ndim > 2:
        if labels.shape != hidden.shape[:-1]:
            raise ValueError(
                f"hidden has {hidden.ndim} dimensions and labels {labels.ndim}: pass one label per position, "
                "labels of the shape hidden.shape[:-1], or both flat."
            )
        hidden, labels = hidden.flatten(0, -2), labels.flatten()
    return hidden, head_weight, labels, bias, shape


def check_arguments(
    hidden: Tensor, head_weight: Tensor, labels: Tensor, bias: Tensor | None, hidden_index: Tensor | None
) -> None:
    check(hidden.ndim == 2, f"hidden has {hidden.ndim} dimensions: pass [T, H] or [B, T, H].")
    check(head_weight.ndim == 2, f"head_weight has {head_weight.ndim} dimensions: pass the head's [V, H].")
    if head_weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"hidden has {hidden.shape[1]} features and head_weight {head_weight.shape[1]}: pass a head as wide."
        )
    check(head_weight.shape[0] > 1, "head_weight has fewer than 2 rows: pass a vocabulary of at least 2 tokens.")
    check(head_weight.shape[1] > 0, "head_weight has no columns: pass a head of at least 1 hidden feature.")
    check_floating("hidden", hidden)
    check(
        head_weight.dtype == hidden.dtype or (head_weight.dtype == torch.float32 and hidden.dtype.itemsize == 2),
        f"hidden is {hidden.dtype} and head_weight {head_weight.dtype}: cast one of them.",
    )
    check_device("head_weight", head_weight, hidden)
    check_no_tangent("hidden", hidden)
    check_no_tangent("head_weight", head_weight)
    check_index("labels", labels, hidden, "label")
    if bias is not None:
        check_tensor("bias", bias)
        if bias.shape != head_weight.shape[:1]:
            raise ValueError(f"bias has shape {list(bias.shape)}: pass [V], one per row of head_weight.")
        check(
            bias.dtype in (hidden.dtype, head_weight.dtype),
            f"bias is {bias.dtype} and hidden {hidden.dtype}: cast one of them.",
        )
        check_device("bias", bias, hidden)
        check_no_tangent("bias", bias)
    if hidden_index is None:
        if labels.shape[0] != hidden.shape[0]:
            raise ValueError(
                f"there are {labels.shape[0]} labels for {hidden.shape[0]} rows of hidden: pass one label per row, "
                "or hidden_index to say which row predicts each label."
            )
    else:
        check_index("hidden_index", hidden_index, hidden, "row of hidden")
        if hidden_index.shape[0] != labels.shape[0]:
            raise ValueError(
                f"hidden_index has {hidden_index.shape[0]} entries for {labels.shape[0]} labels: pass one per label."
            )


def check_settings(
    softcap: float | None, scale: float, temperature: float, workspace_mb: int, save: object, all_served: bool = False
) -> None:
    if softcap is not None:
        check_positive("softcap", softcap)
    check_number("scale", scale)
    if not SMALLEST <= abs(scale) <= LARGEST:
        raise ValueError(f"scale is {scale}: pass a number from {SMALLEST} to {LARGEST}, or minus such a number.")
    check_positive("temperature", temperature)
    if not isinstance(workspace_mb, int) or isinstance(workspace_mb, bool) or not 1 <= workspace_mb < 2**31:
        raise ValueError(f"workspace_mb is {workspace_mb!r}: pass a whole number of MiB, at least 1.")
    check_switch("all_served", all_served)
    check(isinstance(save, bool) or save == "auto", f'save is {save!r}: pass True, False or "auto".')
