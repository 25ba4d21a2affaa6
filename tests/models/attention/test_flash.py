"""What flash attention is asked for, seen by stand-ins."""

from __future__ import annotations

import inspect
from typing import Any, NoReturn

import pytest
import torch
from attention_cases import LENGTHS, REQUESTS, exact_attention, prompts_of_three_pairs, random_heads
from flash_stand_ins import VERSIONS, checked_attention, install, version_2, version_3
from torch import Tensor

from iwpo_fast.models.attention import AttentionMetadata, CannotRunFlat, Options, attend, flash, why_absent
from iwpo_fast.models.attention.flash import PACKAGES


@pytest.mark.parametrize(("backend", "function"), [(name, f) for name, fs in VERSIONS.items() for f in fs])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_flash_attn_is_asked_for_what_the_layer_asks(monkeypatch, backend, function, shared, request_) -> None:
    install(monkeypatch, backend, function)
    assert why_absent(backend) is None
    batch = prompts_of_three_pairs()
    heads = random_heads(2, batch.tokens if shared else sum(LENGTHS), torch.bfloat16)
    ours = attend(*(x.bfloat16() for x in heads), AttentionMetadata.of(batch, backend, shared=shared), request_)
    theirs = exact_attention(*((x[batch.expand_index] if shared else x) for x in heads), request_)
    assert (
        ours.double() - (theirs[batch.compact_index] if shared else theirs)
    ).abs().max() <= 2**-8 * theirs.abs().max()


def test_flash_attn_is_deterministic_where_pytorch_is_asked_to_be(monkeypatch) -> None:
    install(monkeypatch, "flash_attn_2", version_2)
    sequences = AttentionMetadata.of(prompts_of_three_pairs(), "flash_attn_2", shared=False)
    torch.use_deterministic_algorithms(True)
    try:
        attend(*random_heads(2, sum(LENGTHS)), sequences, Options())
    finally:
        torch.use_deterministic_algorithms(False)


def test_version_3_is_passed_over_where_its_backward_pass_would_not_be_deterministic(monkeypatch) -> None:
    install(monkeypatch, "flash_attn_3", version_3)
    sequences = AttentionMetadata.of(prompts_of_three_pairs(), "flash_attn_3", shared=False)
    heads = [x.repeat(1, 1, 16) for x in random_heads(2, sum(LENGTHS))]
    attend(*heads, sequences, Options())
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(CannotRunFlat, match="no deterministic backward pass for heads larger than 192"):
            attend(*heads, sequences, Options())
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("takes_groups", [True, False], ids=["torch_2_13", "torch_2_11"])
@pytest.mark.parametrize("window", [None, 1, 3])
def test_varlen_attention_is_asked_for_what_the_layer_asks(monkeypatch, kv_heads, takes_groups, window) -> None:
    signature = inspect.signature(flash.varlen_attn)
    if takes_groups and kv_heads < 4 and not flash.VARLEN_TAKES_GROUPS:
        pytest.skip(f"varlen_attn of PyTorch {torch.__version__} has no enable_gqa")

    def stand_in(*args: Any, **kwargs: Any) -> Tensor:
        """What the documentation of `varlen_attn` promises, on a CPU."""
        given = signature.bind(*args, **kwargs).arguments
        q, k, v, scale, window_size = (given[name] for name in ("query", "key", "value", "scale", "window_size"))
        assert given.get("enable_gqa", False) == (q.shape[1] != k.shape[1])
        assert takes_groups or q.shape[1] == k.shape[1]
        bounds, longest = (given["cu_seq_q"], given["cu_seq_k"]), (given["max_q"], given["max_k"])
        return checked_attention(q, k, v, bounds, longest, scale, window_size)

    monkeypatch.setattr(flash, "varlen_attn", stand_in)
    monkeypatch.setattr(flash, "VARLEN_TAKES_GROUPS", takes_groups)
    batch = prompts_of_three_pairs()
    heads, request = random_heads(kv_heads, batch.tokens), Options(0.2, window=window)
    ours = attend(*heads, AttentionMetadata.of(batch, "varlen", shared=True), request)
    assert (
        ours - exact_attention(*(x[batch.expand_index] for x in heads), request)[batch.compact_index]
    ).abs().max() <= 2e-6


def test_what_a_build_of_flash_attn_refuses_is_a_reason_to_take_another_backend(monkeypatch) -> None:
    def without_softcap(q, k, v, *rest, softcap=0.0, **options) -> NoReturn:
        raise RuntimeError("This flash attention build does not support softcap.\nException raised from run_mha_fwd")

    install(monkeypatch, "flash_attn_2", without_softcap)
    sequences = AttentionMetadata.of(prompts_of_three_pairs(), "flash_attn_2", shared=False)
    with pytest.raises(CannotRunFlat, match=r"without_softcap refuses it \(This flash .* not support softcap\)$"):
        attend(*random_heads(2, sum(LENGTHS)), sequences, Options(softcap=1.0))


def test_too_little_memory_is_no_reason_to_take_another_backend(monkeypatch) -> None:
    def hungry(*args, softcap=0.0, **options) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory")

    install(monkeypatch, "flash_attn_2", hungry)
    sequences = AttentionMetadata.of(prompts_of_three_pairs(), "flash_attn_2", shared=False)
    with pytest.raises(torch.OutOfMemoryError):
        attend(*random_heads(2, sum(LENGTHS)), sequences, Options())


@pytest.mark.parametrize("backend", ["flash_attn_2", "flash_attn_3", "varlen"])
def test_heads_that_no_flash_attention_takes_are_refused(backend, monkeypatch) -> None:
    if backend in PACKAGES:
        install(monkeypatch, backend, VERSIONS[backend][0])
    sequences = AttentionMetadata.of(prompts_of_three_pairs(), backend, shared=False)
    query, key, value = random_heads(4, sum(LENGTHS))
    with pytest.raises(CannotRunFlat, match="heads of one size, at most 256"):
        attend(query, key, value[..., :8], sequences, Options())
    with pytest.raises(CannotRunFlat, match="heads of one size, at most 256"):
        attend(*(x.repeat(1, 1, 17) for x in (query, key, value)), sequences, Options())
