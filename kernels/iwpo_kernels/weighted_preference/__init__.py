"""Weighted preference losses from the log-probs of tokens."""

from iwpo_kernels.weighted_preference.naive import naive_weighted_preference_loss
from iwpo_kernels.weighted_preference.op import weighted_preference_loss
from iwpo_kernels.weighted_preference.types import TIE, PreferenceOutput, PreferenceSums, right, weighted

__all__ = [
    "TIE",
    "PreferenceOutput",
    "PreferenceSums",
    "naive_weighted_preference_loss",
    "right",
    "weighted",
    "weighted_preference_loss",
]
