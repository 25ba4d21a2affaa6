"""Noise on embeddings while training (NEFTune, Jain et al., arXiv 2310.05914)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class EmbeddingNoise:
    """Adds uniform noise of [-1, 1] · α / √(L d) to every entry of an embedding [d], L the tokens of its sequence.

    Each sequence of a batch has its own noise and its own length: a chosen and a rejected completion share neither.
    Nothing is added in evaluation mode, and so nothing to the reference. It is drawn from PyTorch's random numbers,
    which each step seeds.

    Args:
        embedding: gives [..., d].
        alpha: α.
    """

    def __init__(self, embedding: nn.Module, alpha: float) -> None:
        self.alpha = alpha
        self._lengths: Tensor | None = None
        embedding.register_forward_hook(self._add)

    @contextmanager
    def over(self, lengths: Tensor) -> Iterator[None]:
        """Add it to what is embedded inside.

        Args:
            lengths: int64, of the shape of the tokens or one that broadcasts to it: L of the sequence of each.
        """
        self._lengths = lengths
        try:
            yield
        finally:
            self._lengths = None

    def _add(self, embedding: nn.Module, _: Any, output: Tensor) -> Tensor:
        if self._lengths is None or not embedding.training:
            return output
        scale = self.alpha / (self._lengths * output.shape[-1]).double().sqrt()
        noise = output.new_empty(output.shape).uniform_(-1, 1)
        return output + scale[..., None].to(output.dtype) * noise
