"""Full sequences as a rectangle, for models that cannot run flat."""

from __future__ import annotations

import torch
from torch import Tensor

from iwpo_fast.data.batch import FlatBatch


def pad(batch: FlatBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Lay out full sequences as a rectangle, padded on the right to L tokens with token 0, which the mask hides.

    Returns:
        int64 [S, L], token ids; int64 [S, L], the attention mask, 1 on tokens and 0 on padding; int64 [T], the row of
        each laid-out token in the padded batch seen as [S · L].
    """
    bounds, width, entry = batch.cu_seqlens.long(), batch.max_seqlen, batch.compact_index
    column = torch.arange(width, device=bounds.device)
    mask = column < bounds.diff()[:, None]
    cells = (bounds[:-1, None] + column).where(mask, 0)
    input_ids = batch.input_ids[batch.expand_index[cells]].where(mask, 0)
    sequence = torch.bucketize(entry, bounds[1:], right=True)
    return input_ids, mask.long(), sequence * width + entry - bounds[sequence]
