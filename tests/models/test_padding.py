"""Padded batches hold every token once, on the left of its row."""

from __future__ import annotations

import torch

from iwpo_fast.models.padding import pad


def test_every_token_is_found_where_flat_index_says(batch):
    padded = pad(batch)
    rows = batch.cu_seqlens.numel() - 1
    assert padded.input_ids.shape == padded.attention_mask.shape == (rows, batch.max_seqlen)
    assert torch.equal(padded.input_ids.view(-1)[padded.flat_index], batch.input_ids)
    assert torch.equal(padded.input_ids[padded.attention_mask == 1], batch.input_ids[batch.whole])
    assert torch.equal(padded.attention_mask.sum(1), batch.cu_seqlens.diff().long())
    assert padded.attention_mask.diff(dim=1).max() <= 0
    assert (padded.input_ids[padded.attention_mask == 0] == 0).all()
