"""Every backend gives exact attention inside each sequence, or says what it does not have."""

from __future__ import annotations

import functools

import pytest
import torch
from attention_cases import (
    LENGTHS,
    ON_GPU,
    REQUESTS,
    exact_attention,
    prompts_of_three_pairs,
    random_heads,
    skip_if_absent,
)

from iwpo_fast.models.attention import BACKENDS, AttentionMetadata, CannotRunFlat, Options, attend
from iwpo_fast.models.attention.metadata import BY_LENGTH

WITHOUT_SOFTCAP = ("varlen", "sdpa_by_length")


@pytest.mark.parametrize(
    ("backend", "device", "dtype"),
    [
        *((name, "cpu", torch.float32) for name in BY_LENGTH),
        *(pytest.param(name, "cuda", torch.bfloat16, marks=ON_GPU) for name in BACKENDS),
    ],
)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_backend_is_causal_attention_inside_each_sequence(backend, device, dtype, shared, kv_heads, request_) -> None:
    skip_if_absent(backend, torch.device(device), dtype)
    batch = prompts_of_three_pairs()
    leaves = random_heads(kv_heads, batch.tokens if shared else sum(LENGTHS), dtype)
    given = [x.to(device, dtype) for x in leaves]
    sequences = AttentionMetadata.of(batch, backend, shared=shared).to(torch.device(device))
    if backend in WITHOUT_SOFTCAP and request_.softcap is not None:
        with pytest.raises(CannotRunFlat, match="has no softcap"):
            attend(*given, sequences, request_)
        return
    ours = attend(*given, sequences, request_).cpu()
    theirs = exact_attention(*((x[batch.expand_index] if shared else x) for x in leaves), request_)
    theirs = theirs[batch.compact_index] if shared else theirs
    bound = 2e-6 if dtype == torch.float32 else 2e-2
    assert (ours.double() - theirs).abs().max() <= bound * max(1, theirs.abs().max())
    direction = torch.randn_like(theirs)
    gradients = (torch.autograd.grad(out, leaves, direction.to(out)) for out in (ours, theirs))
    for mine, exact in zip(*gradients, strict=True):
        assert (mine - exact).abs().max() <= bound * exact.abs().max()


def test_tables_made_on_the_host_move_to_a_device_and_masks_are_made_there() -> None:
    sequences, device = (
        AttentionMetadata.of(prompts_of_three_pairs(), "sdpa_by_length", shared=True),
        torch.device("meta"),
    )
    sequences.mask(sequences.rectangles[0], None, torch.float32)
    moved = sequences.to(device)
    tables = [
        moved.cu_seqlens,
        moved.queries,
        moved.keys,
        moved.scatter,
        moved.mask(moved.rectangles[0], None, torch.float32),
    ]
    assert {table.device for table in tables} == {device}


def test_layers_with_one_window_share_the_masks_of_a_batch() -> None:
    sequences = AttentionMetadata.of(prompts_of_three_pairs(), "sdpa_by_length", shared=True)
    rectangle = sequences.rectangles[0]
    mask = functools.partial(sequences.mask, rectangle, dtype=torch.float32)
    assert mask(3) is mask(3)
    assert not torch.equal(mask(1), mask(2))
    assert sequences.mask(rectangle, 3, torch.bfloat16).dtype == torch.bfloat16


def test_plain_causality_needs_no_mask() -> None:
    batch = prompts_of_three_pairs()
    sequences = AttentionMetadata.of(batch, "sdpa_by_length", shared=False)
    attend(*random_heads(4, sum(LENGTHS)), sequences, Options(window=max(LENGTHS)))
    assert not sequences._masks
