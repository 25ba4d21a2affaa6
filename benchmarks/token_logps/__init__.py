"""Logits to log-probs of labels and back."""
