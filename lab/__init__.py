"""Experiments on the quality of trained policies, where the true reward is known."""
