"""What a backend of attention gets: where the queries and keys of a flat batch are, and what a layer asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.context_group import ContextGroup
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
        cu_queries: int32 [S + 1], bounds of the queries, which are the last of each sequence; None where they are all.
        context: processes whose keys and values are gathered first; `keys` are among those of all of them, by rank.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    backend: str
    queries: Tensor | None = None
    keys: Tensor | None = None
    scatter: Tensor | None = None
    rectangles: Sequence[Rectangle] = ()
    rehearsal: bool = False
    cu_queries: Tensor | None = None
    max_queries: int = 0
    context: ContextGroup | None = None
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

    @classmethod
    def of_parts(
        cls, query_bounds: np.ndarray, key_bounds: np.ndarray, keys: Tensor, backend: str, context: ContextGroup
    ) -> AttentionMetadata:
        """Of the parts of sequences that a process of a context group has, on the device of `keys`.

        Args:
            query_bounds: int [S + 1], where the queries of each part lie, end to end.
            key_bounds: int [S + 1], where its keys lie in `keys`: all of its sequence up to the last of the queries.
            keys: int64, of the tokens of all processes, by rank.
        """
        of_queries, of_keys = (
            torch.from_numpy(bounds.astype(np.int32)).to(keys.device) for bounds in (query_bounds, key_bounds)
        )
        longest, longest_keys = (int(np.diff(bounds).max()) for bounds in (query_bounds, key_bounds))
        whole = cls(
            of_keys, longest_keys, backend, keys=keys, cu_queries=of_queries, max_queries=longest, context=context
        )
        if backend not in BY_LENGTH:
            return whole
        rectangles, *indices = rectangles_of(query_bounds, key_bounds)
        queries, cells, scatter = (torch.from_numpy(index).to(keys.device) for index in indices)
        return replace(whole, queries=queries, keys=keys[cells], scatter=scatter, rectangles=rectangles)

    def to(self, device: torch.device, *, non_blocking: bool = True) -> Self:
        return replace(super().to(device, non_blocking=non_blocking), _masks={})

    def mask(self, rectangle: Rectangle, window: int | None, dtype: torch.dtype) -> Tensor:
        """The mask of a rectangle, made once for all layers with the same window."""
        key = (rectangle.queries, rectangle.keys, window, dtype)
        if key not in self._masks:
            self._masks[key] = rectangle.mask(window, dtype, self.cu_seqlens.device)
        return self._masks[key]
