"""Estimates of what a run will take on GPUs that need not be here: tokens, memory and hours of every stage.

Tokens are counted by the library's own batches where the data are here. Everything in bytes and hours is arithmetic;
nothing of it has been measured on a GPU.
"""

from iwpo_fast.planning.estimate import estimate_lines

__all__ = ["estimate_lines"]
