"""The command `iwpo evaluate`: a model on held-out pairs, by its answers, and on benchmarks."""

from iwpo_fast.evaluation.command.run import evaluate_model

__all__ = ["evaluate_model"]
