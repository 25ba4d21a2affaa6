"""Padded batches hold every token once, on the left of its row."""

from __future__ import annotations

import torch

from iwpo_fast.models.padding import pad


def test_every_token_is_found_where_flat_index_says(batch) -> None:
    input_ids, mask, flat_index = pad(batch)
    rows = batch.cu_seqlens.numel() - 1
    assert input_ids.shape == mask.shape == (rows, batch.max_seqlen)
    assert torch.equal(input_ids.view(-1)[flat_index], batch.input_ids)
    assert torch.equal(input_ids[mask == 1], batch.input_ids[batch.expand_index])
    assert torch.equal(mask.sum(1), batch.cu_seqlens.diff().long())
    assert mask.diff(dim=1).max() <= 0
    assert (input_ids[mask == 0] == 0).all()
