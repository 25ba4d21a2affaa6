"""Padding, for models that cannot take flat batches. Nothing outside the model wrapper sees it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iwpo_fast.data.batch import FlatSequences
from iwpo_fast.data.movable import Movable


@dataclass(frozen=True)
class Padded(Movable):
    """S sequences padded on the right to L tokens.

    Attributes:
        input_ids: int64 [S, L]; attention_mask: int64 [S, L], 1 on tokens, 0 on padding.
        flat_index: int64 [T], row of each laid-out token in the padded batch seen as [S · L].
    """

    input_ids: Tensor
    attention_mask: Tensor
    flat_index: Tensor


def pad(batch: FlatSequences) -> Padded:
    """Lay out whole sequences as a rectangle; padding holds token 0, which the mask hides."""
    bounds = batch.cu_seqlens.long()
    rows, width, tokens = bounds.numel() - 1, batch.max_seqlen, batch.whole.numel()
    row = torch.repeat_interleave(torch.arange(rows, device=bounds.device), bounds.diff(), output_size=tokens)
    place = row * width + torch.arange(tokens, device=bounds.device) - bounds[row]
    padded = batch.input_ids.new_zeros(2, rows * width)
    padded[0, place] = batch.input_ids[batch.whole]
    padded[1, place] = 1
    input_ids, attention_mask = padded.view(2, rows, width)
    return Padded(input_ids, attention_mask, place[batch.own])
