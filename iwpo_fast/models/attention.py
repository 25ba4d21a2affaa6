"""Attention over flat batches: each sequence attends causally to itself alone.

Where sequences share a prompt, the model runs its tokens once: the first of the sequences asks for all of its tokens,
the others for their completions alone, and the keys and values of the prompt are repeated in front of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

from iwpo_fast.data.batch import FlatBatch

NAME = "iwpo_flat"
"""Name under which transformers knows `flat_attention`."""

KWARG = "flat_sequences"
"""Keyword argument by which `Sequences` travel through the model to `flat_attention`."""

VARLEN_TAKES_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters
"""Whether this PyTorch's varlen attention has fewer key than query heads; that of 2.11 has not."""

SIMILAR = 0.9
"""Sequences run in one call if the queries of each are at least this fraction of the longest's."""


class CannotRunFlat(Exception):
    """The model wants something of attention that flat batches do not offer; the message says what."""


class Rectangle(NamedTuple):
    """`rows` sequences in one call, each with `queries` tokens that attend to `keys` tokens and end with them."""

    rows: int
    queries: int
    keys: int

    def mask(self, device: torch.device) -> Tensor | None:
        """float32 [queries, keys], 0 where a query sees a key and -inf elsewhere; None where plain causality says it.

        Keys in front of the first query are seen by all.
        """
        if self.queries == self.keys:
            return None
        hidden = torch.full((self.queries, self.keys), -torch.inf, device=device)
        return hidden.triu(self.keys - self.queries + 1)


@dataclass(frozen=True)
class Sequences:
    """Where the sequences are among the T tokens that the model runs, and how attention over them is computed.

    Attributes:
        cu_seqlens: int32 [S + 1], bounds of the sequences when they lie whole, end to end.
        max_seqlen: length of the longest sequence.
        backend: name in `BACKENDS`.
        queries, keys: int64, tokens in the order in which the backend takes them; None takes them as they are.
        scatter: int64 [T], where the backend's output for each token is; None where it is in place.
        rectangles: those that queries and keys fill, for backends that take rectangles; with the mask of each.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    backend: str
    queries: Tensor | None = None
    keys: Tensor | None = None
    scatter: Tensor | None = None
    rectangles: Sequence[tuple[Rectangle, Tensor | None]] = ()

    @classmethod
    def of(cls, batch: FlatBatch, backend: str, *, shared: bool) -> Sequences:
        """Computed once for all layers; `shared` says whether the model runs tokens as `batch` lays them out.

        Rectangles need the lengths on the host, which on a GPU waits for the device.
        """
        bounds, longest, device = batch.cu_seqlens, batch.max_seqlen, batch.whole.device
        if backend == "varlen":
            whole, own = (batch.whole, batch.own) if shared else (None, None)
            return cls(bounds, longest, backend, whole, whole, own)
        of_queries, of_keys = (x.numpy(force=True) for x in (batch.cu_laid_out if shared else bounds, bounds))
        rectangles, *indices = rectangles_of(of_queries, of_keys)
        queries, keys, scatter = (torch.from_numpy(index).to(device) for index in indices)
        with_masks = [(rectangle, rectangle.mask(device)) for rectangle in rectangles]
        return cls(bounds, longest, backend, queries, batch.whole[keys] if shared else keys, scatter, with_masks)


def rectangles_of(
    query_bounds: np.ndarray, key_bounds: np.ndarray
) -> tuple[list[Rectangle], np.ndarray, np.ndarray, np.ndarray]:
    """Pad sequences of similar length on the right to rectangles.

    Sequences of one rectangle have equally many keys in front of their first query, so that one mask serves them all.

    Args:
        query_bounds, key_bounds: int [S + 1], where the queries of each sequence lie in T tokens, and its keys in W.

    Returns:
        The rectangles; int64, the query token in each of their cells (padding repeats the last of its row); int64,
        the key token likewise; int64 [T], the cell of each query token.
    """
    queries, keys = (np.diff(bounds).astype(np.int64) for bounds in (query_bounds, key_bounds))
    before = keys - queries
    groups: list[list[int]] = []
    for s in np.lexsort((-queries, before)).tolist():
        longest = groups[-1][0] if groups else s
        if not groups or before[s] != before[longest] or queries[s] < SIMILAR * queries[longest]:
            groups.append([])
        groups[-1].append(s)
    rectangles = [Rectangle(len(group), int(queries[group[0]]), int(keys[group[0]])) for group in groups]
    query_cells, key_cells, place = [], [], np.empty(query_bounds[-1], dtype=np.int64)
    end = 0
    for group, rectangle in zip(groups, rectangles, strict=True):
        tokens, inside = _cells(query_bounds, group, rectangle.queries)
        place[tokens[inside]] = end + np.flatnonzero(inside)
        end += tokens.size
        query_cells.append(tokens)
        key_cells.append(_cells(key_bounds, group, rectangle.keys)[0])
    return rectangles, np.concatenate(query_cells), np.concatenate(key_cells), place


def _cells(bounds: np.ndarray, group: list[int], width: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 and bool [rows · width]: the token in each cell, and whether it is more than padding."""
    first, last = (bounds[np.array(group) + i].astype(np.int64)[:, None] - i for i in (0, 1))
    tokens = first + np.arange(width)
    return np.minimum(tokens, last).ravel(), (tokens <= last).ravel()


Backend = Callable[[Tensor, Tensor, Tensor, Sequences, float | None], Tensor]


def varlen(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scale: float | None) -> Tensor:
    """One launch of varlen flash attention: query [W, Hq, D], key and value [W, Hkv, D] → [W, Hq, D]."""
    if query.shape[-1] != value.shape[-1] or query.shape[-1] > 256:
        raise CannotRunFlat("flash attention wants heads of one size, at most 256")
    bounds, longest = sequences.cu_seqlens, sequences.max_seqlen
    options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0)}
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and VARLEN_TAKES_GROUPS:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    out = varlen_attn(query, key, value, bounds, bounds, longest, longest, **options)
    assert isinstance(out, Tensor)
    return out


def sdpa(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scale: float | None) -> Tensor:
    """One call of scaled dot-product attention per rectangle: query [Kq, Hq, D], key, value [Kk, Hkv, D] → [Kq, Hq, D].

    Padding is on the right, where causal attention does not look.
    """
    gqa = query.shape[1] != key.shape[1]
    rectangles, masks = zip(*sequences.rectangles, strict=True)
    queries = query.split([r.rows * r.queries for r in rectangles])
    keys, values = (x.split([r.rows * r.keys for r in rectangles]) for x in (key, value))
    outputs = []
    for rectangle, mask, *parts in zip(rectangles, masks, queries, keys, values, strict=True):
        q, k, v = (x.unflatten(0, (rectangle.rows, -1)).transpose(1, 2) for x in parts)
        output = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=gqa)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


BACKENDS: dict[str, Backend] = {"varlen": varlen, "sdpa_by_length": sdpa}


def backends(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Backends that compute attention in `dtype` on `device`, the fastest first; a model may suit only some."""
    half = dtype in (torch.bfloat16, torch.float16)
    return ["varlen", "sdpa_by_length"] if device.type == "cuda" and half else ["sdpa_by_length"]


def attend(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scale: float | None) -> Tensor:
    """Attention of T tokens: query [T, Hq, D], key and value [T, Hkv, D] → [T, Hq, D]."""
    if sequences.queries is not None and sequences.keys is not None:
        query = _rows(query, sequences.queries)
        key, value = (_rows(x, sequences.keys) for x in (key, value))
    out = BACKENDS[sequences.backend](query, key, value, sequences, scale)
    return out if sequences.scatter is None else _rows(out, sequences.scatter)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """values[index]; the backward pass of an embedding adds repeated rows in a fixed order on every device."""
    return F.embedding(index, values.flatten(1)).unflatten(1, values.shape[1:])


def flat_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [1, Hq, T, D], key and value [1, Hkv, T, D] → [1, T, Hq, D].

    Raises:
        CannotRunFlat: the model asks for more than causal attention inside each sequence.
    """
    sequences = kwargs.get(KWARG)
    if sequences is None:
        raise CannotRunFlat("it does not hand keyword arguments on to its attention layers")
    _refuse_extras(module, attention_mask, dropout, sequences.max_seqlen, kwargs)
    dtype = torch.get_autocast_dtype(query.device.type) if torch.is_autocast_enabled(query.device.type) else query.dtype
    q, k, v = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))
    return attend(q, k, v, sequences, scaling)[None], None


def _refuse_extras(
    module: nn.Module, mask: Tensor | None, dropout: float, longest: int, kwargs: dict[str, Any]
) -> None:
    window = kwargs.get("sliding_window")
    causal = kwargs.get("is_causal")
    refused = {
        "a mask of its own": mask is not None,
        "attention dropout": dropout > 0,
        "attention that is not causal": not (getattr(module, "is_causal", True) if causal is None else causal),
        "a softcap on attention scores": kwargs.get("softcap") is not None,
        "attention sinks": kwargs.get("s_aux") is not None,
        "a position bias": kwargs.get("position_bias") is not None,
        f"a sliding window of {window} tokens": window is not None and longest > window,
    }
    for what, wanted in refused.items():
        if wanted:
            raise CannotRunFlat(f"its attention uses {what}")


def why_not_flat(model: PreTrainedModel, max_length: int | None) -> str | None:
    """What the model declares that keeps it from running flat, or None.

    Args:
        max_length: length of the longest sequence it will see; None where it is not known.
    """
    config = model.config.get_text_config()
    if not model._supports_attention_backend:
        return "it does not take its attention from transformers' attention interface"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        return f"it has layers of type {', '.join(other)}"
    window = getattr(config, "sliding_window", None)
    windowed = "sliding_attention" in kinds or getattr(config, "layer_types", None) is None
    if window is not None and windowed and (max_length is None or max_length > window):
        return f"its attention uses a sliding window of {window} tokens"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention uses a softcap on attention scores"
    return None


AttentionInterface.register(NAME, flat_attention)
