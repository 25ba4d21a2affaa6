"""Triton operators for preference optimisation: per-token log-probs without logits, and weighted preference losses."""

from iwpo_kernels.linear_token_logps import TokenLogps, linear_token_logps
from iwpo_kernels.weighted_preference import PreferenceOutput, PreferenceSums, weighted_preference_loss

__all__ = ["PreferenceOutput", "PreferenceSums", "TokenLogps", "linear_token_logps", "weighted_preference_loss"]
