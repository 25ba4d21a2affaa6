"""Three pairs of ragged lengths, random heads for them, and exact attention over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models.attention import Options, backends, why_absent

PROMPTS, COMPLETIONS = (4, 1, 4), ((1, 1, 4), (7, 1, 12))
"""Of three pairs, chosen and rejected; the first and the third have one prompt."""

LENGTHS = [p + c for side in COMPLETIONS for p, c in zip(PROMPTS, side, strict=True)]

REQUESTS = {
    "all_before": Options(0.2),
    "own_scale": Options(),
    "window": Options(0.2, window=3),
    "window_like_a_sequence": Options(0.2, window=8),
    "softcap": Options(0.2, softcap=0.7),
    "window_and_softcap": Options(0.2, window=3, softcap=0.7),
}

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")]


def skip_if_absent(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    if backend not in backends(device, dtype):
        pytest.skip(why_absent(backend) or f"{backend} is not for this machine")


def prompts_of_three_pairs() -> FlatBatch:
    def rows(lengths: tuple[int, ...]) -> Ragged:
        return Ragged.from_rows([np.arange(n) for n in lengths])

    chosen, rejected = map(rows, COMPLETIONS)
    return flat_batch(Pairs(rows(PROMPTS), chosen, rejected, weight=np.ones(3)), np.arange(3))


def random_heads(kv_heads: int, tokens: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Query [T, 4, 16], key and value [T, kv_heads, 16], rounded to `dtype`; queries are long, for the softcap."""
    torch.manual_seed(0)
    sizes = ((4, 2.0), (kv_heads, 1.0), (kv_heads, 1.0))
    return [(size * torch.randn(tokens, heads, 16)).to(dtype).float().requires_grad_() for heads, size in sizes]


def exact_attention(query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
    """[W, Hq, D] in float64: one softmax over the keys of all sequences, with one mask."""
    row = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    place = torch.arange(sum(LENGTHS))
    distance = place[:, None] - place[None]
    seen = (row[:, None] == row[None]) & (distance >= 0) & (distance < (options.window or sum(LENGTHS)))
    groups = query.shape[1] // key.shape[1]
    q, k, v = (x.double().cpu().transpose(0, 1) for x in (query, key, value))
    k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
    scores = q @ k.transpose(1, 2) * (query.shape[-1] ** -0.5 if options.scale is None else options.scale)
    if options.softcap is not None:
        scores = options.softcap * (scores / options.softcap).tanh()
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(0, 1)
