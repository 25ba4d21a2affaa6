"""Evaluation: sampling from a model, and estimates with their intervals."""
