"""The slice of a flat batch that one process of a context group computes: which tokens, and what they attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.context_group import ContextGroup
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.ragged import bounds_of, positions_of
from iwpo_fast.data.tensor_dataclass import TensorDataclass
from iwpo_fast.models.attention.metadata import AttentionMetadata


class Parts(NamedTuple):
    """int64 [ranks, S] each: the tokens of every sequence that each rank has, in an early and in a late part of it."""

    early: np.ndarray
    late: np.ndarray

    def begins(self, starts: np.ndarray) -> Parts:
        """Where these parts begin, in sequences that begin at `starts` [S].

        The early parts lie in the order of ranks, the late ones behind them in the reverse order. Each sequence begins
        with another rank, because the late part of the first has most of what is supervised behind a long prompt.
        """
        ranks, sequences = self.early.shape
        order = (np.arange(ranks)[:, None] + np.arange(sequences)) % ranks  # the rank at each place
        early, late = (np.take_along_axis(x, order, axis=0) for x in self)
        begins = starts + early.cumsum(0) - early, starts + early.sum(0) + late[::-1].cumsum(0)[::-1] - late
        return Parts(*(np.take_along_axis(x, order.argsort(0), axis=0) for x in begins))


def parts_of(lengths: np.ndarray, ranks: int) -> Parts:
    """Deal the tokens of each of S sequences to ranks, so that both tokens and attention are even.

    A query attends to all before it. Of a sequence in 2 · ranks equal parts, a rank has one part and the part as far
    from the end as that is from the beginning, whose queries attend to as many keys together as those of any other rank
    (after Llama 3, arXiv 2407.21783, as understood here, which cuts a batch so; here it is each sequence). Tokens that
    are left over go round, from sequence to sequence, so that no rank has more than one token more than another.
    """
    each, over = np.divmod(lengths.astype(np.int64), ranks)
    first = over.cumsum() - over
    own = each + ((np.arange(ranks)[:, None] - first) % ranks < over)
    return Parts(own // 2, own - own // 2)


@dataclass(frozen=True)
class ContextSlice(TensorDataclass):
    """L of the tokens that the model runs for a batch, on this process; as many on every process of its group.

    A process that has fewer runs the first token of the batch once more, which attends to itself, and which nothing
    reads.

    Attributes:
        tokens: int64 [L], the laid-out token of the batch that each of them is.
        places: int64 [T], where the group's hidden states [ranks · L], gathered by rank, have each laid-out token.
        served: int64 [n], which of the N supervised tokens of the batch are predicted here.
        rows: int64 [n], the row of the L whose hidden state predicts each of them.
        attention: the parts of sequences that are here, and their keys among those of the group.
    """

    tokens: Tensor
    places: Tensor
    served: Tensor
    rows: Tensor
    attention: AttentionMetadata

    @classmethod
    def of(cls, batch: FlatBatch, backend: str, context: ContextGroup, *, shared: bool) -> Self:
        """A function of the batch's lengths and the rank; arguments as of `AttentionMetadata.of`."""
        own, places, width = _dealt(batch, context, shared=shared)
        entries, laid_out_at, hidden_at = (
            x.numpy(force=True) for x in (batch.expand_index, batch.compact_index, batch.hidden_index)
        )
        entry_places, laid_out_places = (places[entries], places) if shared else (places, places[laid_out_at])
        predicting = laid_out_places[hidden_at]
        served = np.flatnonzero(predicting // width == context.rank)
        padding = np.zeros(width - int(own.counts.sum()), dtype=np.int64)
        run = positions_of(own.begins, own.counts)
        padding_at = context.rank * width + len(run) + np.arange(len(padding))
        keys = np.concatenate([entry_places[positions_of(own.key_begins, own.key_counts)], padding_at])
        counts, key_counts = (np.append(x, len(padding)) if len(padding) else x for x in (own.counts, own.key_counts))
        device = batch.expand_index.device

        def there(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values.astype(np.int64, copy=False)).to(device)

        return cls(
            tokens=there(np.concatenate([run if shared else entries[run], padding])),
            places=there(laid_out_places),
            served=there(served),
            rows=there(predicting[served] % width),
            attention=AttentionMetadata.of_parts(
                bounds_of(counts), bounds_of(key_counts), there(keys), backend, context
            ),
        )

    def of_group(self, values: Tensor, count: int) -> Tensor:
        """[N] on every process, from values [n] of the tokens that each of them serves.

        Args:
            count: N, which is the same everywhere.
        """
        assert self.attention.context is not None, "a slice belongs to a group"
        numbers = values if values.is_floating_point() else values.float()
        own = numbers.new_zeros(count).index_copy(0, self.served, numbers)
        return self.attention.context.summed(own).to(values.dtype)


class _Own(NamedTuple):
    """The parts of sequences that this process has, int64 each: tokens that the model runs, and entries of keys."""

    begins: np.ndarray
    counts: np.ndarray
    key_begins: np.ndarray
    key_counts: np.ndarray


def _dealt(batch: FlatBatch, context: ContextGroup, *, shared: bool) -> tuple[_Own, np.ndarray, int]:
    """This process's parts; the place among all processes' tokens of each token that the model runs; and L."""
    bounds = batch.cu_seqlens.numpy(force=True).astype(np.int64)
    of_queries = batch.cu_laid_out.numpy(force=True).astype(np.int64) if shared else bounds
    starts, lengths = of_queries[:-1], np.diff(of_queries)
    parts = parts_of(lengths, context.size)
    counts, begins = (np.stack(x, axis=-1).reshape(context.size, -1) for x in (parts, parts.begins(starts)))
    width = max(1, int(counts.sum(1).max()))
    places = np.empty(of_queries[-1], dtype=np.int64)
    for rank in range(context.size):
        run = positions_of(begins[rank], counts[rank])
        places[run] = rank * width + np.arange(len(run))
    there = counts[context.rank] > 0
    begin, count = begins[context.rank][there], counts[context.rank][there]
    sequence = np.repeat(np.arange(len(lengths)), 2)[there]
    before = np.diff(bounds)[sequence] - lengths[sequence]  # keys of a shared prompt, which is laid out elsewhere
    own = _Own(begin, count, bounds[sequence], before + begin - starts[sequence] + count)
    return own, places, width
