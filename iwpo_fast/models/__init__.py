"""Models: loading, adapters, heads, flat attention and reference log-probs."""
