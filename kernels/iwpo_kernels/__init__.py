"""Triton operators for preference optimisation: per-token log-probs without logits, and weighted preference losses."""

from iwpo_kernels.linear_preference import (
    LinearPreferenceLoss,
    PaddedLinearPreferenceLoss,
    PaddedMetrics,
    linear_preference_loss,
    padded_segments,
)
from iwpo_kernels.linear_token_logps import TokenStatistics, linear_token_logps, linear_token_statistics
from iwpo_kernels.token_logps import token_logps
from iwpo_kernels.weighted_preference import PreferenceOutput, PreferenceSums, weighted_preference_loss

__all__ = [
    "LinearPreferenceLoss",
    "PaddedLinearPreferenceLoss",
    "PaddedMetrics",
    "PreferenceOutput",
    "PreferenceSums",
    "TokenStatistics",
    "linear_preference_loss",
    "linear_token_logps",
    "linear_token_statistics",
    "padded_segments",
    "token_logps",
    "weighted_preference_loss",
]
