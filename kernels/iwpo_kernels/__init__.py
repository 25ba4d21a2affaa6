"""Triton operators for preference optimisation: per-token log-probs without logits, and weighted preference losses."""
