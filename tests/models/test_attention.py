"""Flat batches: sequences end to end give what separate sequences give, and models that cannot are padded."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from families import FAMILIES, assert_same_gradients, gradients, plain_logps

from iwpo_fast.config import LoraConfig, ModelConfig
from iwpo_fast.models import attention, load, load_policy
from iwpo_fast.models.attention import BACKENDS, CannotRunFlat, Sequences

LENGTHS = (5, 1, 8)

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")]


def random_heads(kv_heads: int) -> list[torch.Tensor]:
    """Query [T, 4, 16], key and value [T, kv_heads, 16]."""
    torch.manual_seed(0)
    return [torch.randn(sum(LENGTHS), heads, 16) for heads in (4, kv_heads, kv_heads)]


def sequences(backend: str, device: str = "cpu") -> Sequences:
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0).int().to(device)
    return Sequences.of(bounds, max(LENGTHS), backend)


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
    q, k, v = (x.to(device, dtype) for x in random_heads(kv_heads))
    ours = BACKENDS[backend](q, k, v, sequences(backend, device), 0.2)
    bound = 2e-6 if dtype == torch.float32 else 2e-2
    assert (ours.double().cpu() - dense_attention(q, k, v, 0.2)).abs().max() <= bound


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("takes_groups", [True, False], ids=["torch_2_13", "torch_2_11"])
def test_varlen_attention_is_asked_for_causal_attention_in_each_sequence(monkeypatch, kv_heads, takes_groups):
    signature = inspect.signature(attention.varlen_attn)

    def stand_in(*args, **kwargs):
        """What the documentation of `varlen_attn` promises, on a CPU."""
        given = signature.bind(*args, **kwargs).arguments
        assert given["window_size"] == (-1, 0)
        assert given["max_q"] == given["max_k"] == max(LENGTHS)
        assert given["cu_seq_q"].dtype == torch.int32
        assert torch.equal(given["cu_seq_q"].diff(), torch.tensor(LENGTHS)) and given["cu_seq_k"] is given["cu_seq_q"]
        same_heads = given["query"].shape[1] == given["key"].shape[1]
        assert given.get("enable_gqa", False) == (not same_heads)
        assert takes_groups or same_heads
        return dense_attention(given["query"], given["key"], given["value"], given["scale"]).float()

    monkeypatch.setattr(attention, "varlen_attn", stand_in)
    monkeypatch.setattr(attention, "VARLEN_TAKES_GROUPS", takes_groups)
    q, k, v = random_heads(kv_heads)
    ours = BACKENDS["varlen"](q, k, v, sequences("varlen"), 0.2)
    assert (ours - dense_attention(q, k, v, 0.2)).abs().max() <= 2e-6


def test_a_backend_that_does_not_suit_the_model_is_passed_over(policy_of, batch, monkeypatch):
    monkeypatch.setattr(load, "backends", lambda device, dtype: ["varlen", "sdpa_per_sequence"])
    mla = {"model_type": "deepseek_v3", "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4,
           "qk_nope_head_dim": 4, "v_head_dim": 6, "n_routed_experts": 4, "n_group": 2, "topk_group": 1,
           "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_key_value_heads": 4, "head_dim": 4}  # fmt: skip
    policy = policy_of("llama", changes=mla)
    assert (policy.layout, policy.attention) == ("flat", "sdpa_per_sequence")
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
    assert ((policy(batch) - theirs).abs() <= 5e-6 * (1 + theirs.abs())).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_gpu_computes_in_bf16_with_float32_master_weights(policy_of, batch, tmp_path, tokenizer, family, lora):
    exact = policy_of(family, lora=lora)(batch)
    config = ModelConfig(path=str(tmp_path / family), lora=lora)
    policy = load_policy(config, tokenizer, seed=3, device=torch.device("cuda"), max_length=20)
    assert policy.attention == ("varlen" if family == "llama" else "eager")
    assert {p.dtype for p in policy.trainable_parameters().values()} == {torch.float32}
    frozen = {p.dtype for p in policy.parameters() if not p.requires_grad}
    assert frozen == ({torch.bfloat16} if lora else set())
    logps = policy(batch.to(policy.device))
    assert 0 < (logps.cpu() - exact).abs().max() < 0.5
    assert all(g.isfinite().all() for g in gradients(logps.cpu(), policy).values())


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
