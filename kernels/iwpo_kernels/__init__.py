"""Triton operators for preference optimisation: per-token log-probs without logits, and weighted preference losses."""

from iwpo_kernels.linear_token_logps import TokenLogps, linear_token_logps

__all__ = ["TokenLogps", "linear_token_logps"]
