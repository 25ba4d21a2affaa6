"""Weighted preference losses from hidden states: flat batches, and padded ones."""

from iwpo_kernels.linear_preference.module import LinearPreferenceLoss
from iwpo_kernels.linear_preference.op import linear_preference_loss
from iwpo_kernels.linear_preference.padded import PaddedLinearPreferenceLoss, PaddedMetrics, padded_segments

__all__ = [
    "LinearPreferenceLoss",
    "PaddedLinearPreferenceLoss",
    "PaddedMetrics",
    "linear_preference_loss",
    "padded_segments",
]
