"""What a backend of attention gets: where the queries and keys of a flat batch are, and what a layer asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.tensor_dataclass import TensorDataclass
from iwpo_fast.models.attention.rectangles import Rectangle, rectangles_of

BY_LENGTH = ("sdpa_by_length", "eager_by_length")
"""Backends that take sequences in rectangles; the others take them end to end."""


class CannotRunFlat(Exception):
    """The model wants something of attention that flat batches, or a backend, do not offer; the message names it."""


class Options(NamedTuple):
    """How a layer makes weights of the products of queries and keys.

    Attributes:
        scale: factor on the products; None takes 1/√D for heads of size D.
        window: how many tokens a query sees, its own and those just before it; None lets it see all before it.
        softcap: scores become softcap · tanh(score / softcap); None leaves them alone.
    """

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None


@dataclass(frozen=True)
class AttentionMetadata(TensorDataclass):
    """Where the sequences are among the T tokens that the model runs, in the form that a backend takes.

    Attributes:
        cu_seqlens: int32 [S + 1], bounds of the full sequences, end to end.
        max_seqlen: length of the longest sequence.
        backend: name in `BACKENDS`.
        queries, keys: int64, tokens in the order in which the backend takes them; None takes them as they are.
        scatter: int64 [T], where the backend's output for each token is; None where it is in place.
        rectangles: those that queries and keys fill, for backends that take rectangles.
        rehearsal: whether every attention runs its backward pass at once, to see that the backend has one.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    backend: str
    queries: Tensor | None = None
    keys: Tensor | None = None
    scatter: Tensor | None = None
    rectangles: Sequence[Rectangle] = ()
    rehearsal: bool = False
    _masks: dict[tuple[int, int, int | None, torch.dtype], Tensor] = field(
        default_factory=dict, compare=False, repr=False
    )

    @classmethod
    def of(cls, batch: FlatBatch, backend: str, *, shared: bool) -> AttentionMetadata:
        """A function of the batch's lengths alone, on the batch's device; computed once for all layers.

        Rectangles need the lengths on the host: for a batch on a GPU this waits for the device, so make the tables of
        a batch that is still on the host, and move them with it.

        Args:
            shared: whether the model runs tokens as `batch` lays them out, or every sequence in full.
        """
        bounds, longest, device = batch.cu_seqlens, batch.max_seqlen, batch.expand_index.device
        if backend not in BY_LENGTH:
            expand, compact = (batch.expand_index, batch.compact_index) if shared else (None, None)
            return cls(bounds, longest, backend, expand, expand, compact)
        of_queries, of_keys = (x.numpy(force=True) for x in (batch.cu_laid_out if shared else bounds, bounds))
        rectangles, *indices = rectangles_of(of_queries, of_keys)
        queries, keys, scatter = (torch.from_numpy(index).to(device) for index in indices)
        return cls(bounds, longest, backend, queries, batch.expand_index[keys] if shared else keys, scatter, rectangles)

    def to(self, device: torch.device, *, non_blocking: bool = True) -> Self:
        return replace(super().to(device, non_blocking=non_blocking), _masks={})

    def mask(self, rectangle: Rectangle, window: int | None, dtype: torch.dtype) -> Tensor:
        """The mask of a rectangle, made once for all layers with the same window."""
        key = (rectangle.queries, rectangle.keys, window, dtype)
        if key not in self._masks:
            self._masks[key] = rectangle.mask(window, dtype, self.cu_seqlens.device)
        return self._masks[key]
