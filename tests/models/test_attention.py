"""Flat batches: sequences end to end give what separate sequences give, and models that cannot are padded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from families import FAMILIES, assert_same_gradients, gradients, plain_logps

from iwpo_fast.models.attention import BACKENDS, CannotRunFlat, Sequences

LENGTHS = (5, 1, 8)

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")]


def dense_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """[T, Hq, D] in float64: one softmax over all keys, with a block-diagonal causal mask."""
    row = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    mask = (row[:, None] == row[None]).tril()
    groups = query.shape[1] // key.shape[1]
    q, k, v = (x.double().cpu().transpose(0, 1) for x in (query, key, value))
    k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
    scores = (scale * q @ k.transpose(1, 2)).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1)


@pytest.mark.parametrize(
    ("backend", "device", "dtype"),
    [
        ("sdpa_per_sequence", "cpu", torch.float32),
        pytest.param("sdpa_per_sequence", "cuda", torch.bfloat16, marks=ON_GPU),
        pytest.param("varlen", "cuda", torch.bfloat16, marks=ON_GPU),
    ],
)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_backend_is_causal_attention_inside_each_sequence(backend, device, dtype, kv_heads):
    torch.manual_seed(0)
    tokens, scale = sum(LENGTHS), 0.2
    q, k, v = (torch.randn(tokens, heads, 16).to(device, dtype) for heads in (4, kv_heads, kv_heads))
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0).int().to(device)
    ours = BACKENDS[backend](q, k, v, Sequences.of(bounds, max(LENGTHS), backend), scale)
    bound = 2e-6 if dtype == torch.float32 else 2e-2
    assert (ours.double().cpu() - dense_attention(q, k, v, scale)).abs().max() <= bound


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gemma2", "gemma3_text", "cohere2"}))
def test_flat_and_padded_layouts_give_the_same_log_probs_and_gradients(policy_of, batch, family):
    policy = policy_of(family)
    assert (policy.layout, policy.attention) == ("flat", "sdpa_per_sequence")
    flat = policy(batch)
    flat_gradients = gradients(flat, policy)
    policy.run_padded("for comparison")
    assert policy.attention in ("sdpa", "eager")
    padded = policy(batch)
    assert ((flat - padded).abs() <= 5e-6 * (1 + padded.abs())).all()
    assert_same_gradients(flat_gradients, gradients(padded, policy))


@pytest.mark.parametrize("layout", ["flat", "padded"])
def test_a_sequence_does_not_see_its_neighbours(policy_of, batch, layout):
    policy = policy_of("llama", batch_layout=layout)
    second = batch.cu_seqlens[1]
    other = batch.input_ids.clone()
    other[:second] = (other[:second] + 1) % 200
    before, after = policy(batch), policy(replace(batch, input_ids=other))
    first = int(batch.segments[1])
    assert not torch.equal(before[:first], after[:first])
    assert torch.equal(before[first:], after[first:])


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("gemma2", {}, "sliding window of 4 tokens"),
        ("gemma2", {"sliding_window": 64}, "softcap on attention scores"),
        ("mistral", {"sliding_window": 19}, "sliding window of 19 tokens"),
        ("llama", {"model_type": "gpt_oss", "num_local_experts": 2, "num_experts_per_tok": 1,
                   "layer_types": ["full_attention"] * 2}, "attention sinks"),
        ("llama", {"model_type": "llama4_text", "num_local_experts": 2, "intermediate_size_mlp": 48},
         "layers of type chunked_attention"),
        ("llama", {"model_type": "nemotron"}, "does not hand keyword arguments on"),
        ("llama", {"model_type": "mamba", "state_size": 4}, "does not take its attention from"),
        ("llama", {"model_type": "bloom", "n_head": 4, "n_layer": 2}, "does not take its attention from"),
    ],
)  # fmt: skip
def test_models_that_cannot_run_flat_are_padded_or_refused_with_the_reason(policy_of, batch, family, changes, reason):
    policy = policy_of(family, changes=changes)
    assert policy.layout == "padded"
    assert reason in policy.layout_reason
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
    assert ((policy(batch) - theirs).abs() <= 5e-6 * (1 + theirs.abs())).all()
    with pytest.raises(ValueError, match=f"cannot run flat.*{reason}.*: set auto or padded"):
        policy_of(family, changes=changes, batch_layout="flat")


def test_a_sliding_window_that_holds_every_sequence_does_not_matter(policy_of, batch):
    wide = {"sliding_window": 20}
    assert policy_of("mistral", changes=wide, max_length=None).layout == "padded"
    policy = policy_of("mistral", changes=wide, max_length=20)
    assert policy.layout == "flat"
    with policy.plain_attention() as model:
        assert torch.allclose(policy(batch), plain_logps(model, batch).float(), rtol=0, atol=5e-5)
    policy = policy_of("mistral", changes={"sliding_window": 8}, max_length=8)
    with pytest.raises(CannotRunFlat, match="sliding window of 8"):
        policy(batch)


def test_padding_is_a_choice_for_every_model(policy_of):
    policy = policy_of("llama", batch_layout="padded")
    assert (policy.layout, policy.layout_reason) == ("padded", "asked for")


def test_the_model_can_generate_with_its_own_attention(policy_of, batch):
    policy = policy_of("llama")
    prompt, before = batch.input_ids[None, :3], policy(batch)
    with policy.plain_attention() as model:
        generated = model.generate(prompt, max_new_tokens=4, do_sample=False)
        greedy = model(generated[:, :-1], use_cache=False).logits[0, 2:].argmax(-1)
    assert torch.equal(generated[0, 3:], greedy)
    assert torch.equal(policy(batch), before)
