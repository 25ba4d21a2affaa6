"""Attention by rectangles of sequences of similar length: runs everywhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.models.attention.metadata import AttentionMetadata, CannotRunFlat, Options
from iwpo_fast.models.attention.rectangles import Rectangle


def sdpa_by_length(query: Tensor, key: Tensor, value: Tensor, metadata: AttentionMetadata, options: Options) -> Tensor:
    """One call of scaled dot-product attention per rectangle: query [Kq, Hq, D], key, value [Kk, Hkv, D] → [Kq, Hq, D].

    Padding is on the right, where causal attention does not look.
    """
    if options.softcap is not None:
        raise CannotRunFlat("scaled dot-product attention has no softcap")
    gqa = query.shape[1] != key.shape[1]

    def attend(rectangle: Rectangle, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        window = _window_inside(rectangle, options.window)
        causal = window is None and rectangle.queries == rectangle.keys
        # Kernels of a GPU take no mask of another dtype than the query's.
        mask = None if causal else metadata.mask(rectangle, window, q.dtype)
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=options.scale, enable_gqa=gqa)

    return _by_rectangle(attend, query, key, value, metadata)


def eager_by_length(query: Tensor, key: Tensor, value: Tensor, metadata: AttentionMetadata, options: Options) -> Tensor:
    """Two matrix products and a softmax per rectangle, the scores of all heads in memory: shapes as `sdpa_by_length`.

    Slower, but it knows the softcap of Gemma 2 (arXiv 2408.00118, section 2).
    """
    groups = query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if options.scale is None else options.scale

    def attend(rectangle: Rectangle, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        scores = scale * (q @ k.transpose(-1, -2))
        if options.softcap is not None:
            scores = options.softcap * torch.tanh(scores / options.softcap)
        scores = scores + metadata.mask(rectangle, _window_inside(rectangle, options.window), scores.dtype)
        return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v

    return _by_rectangle(attend, query, key, value, metadata)


def _window_inside(rectangle: Rectangle, window: int | None) -> int | None:
    """The window, unless it holds every sequence of the rectangle."""
    return window if window is not None and window < rectangle.keys else None


def _by_rectangle(
    attend: Callable[[Rectangle, Tensor, Tensor, Tensor], Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    metadata: AttentionMetadata,
) -> Tensor:
    """`attend` for each rectangle, on [rows, heads, tokens, D]."""
    rectangles = metadata.rectangles
    queries = query.split([r.rows * r.queries for r in rectangles])
    keys, values = (x.split([r.rows * r.keys for r in rectangles]) for x in (key, value))
    outputs = []
    for rectangle, *parts in zip(rectangles, queries, keys, values, strict=True):
        output = attend(rectangle, *(x.unflatten(0, (rectangle.rows, -1)).transpose(1, 2) for x in parts))
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)
