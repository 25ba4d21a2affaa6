"""Flat batches give what separate sequences give, with shared prompts too, and models that cannot are padded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, LAYOUTS, assert_same_gradients, gradients, plain_logps
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.gemma2.modeling_gemma2 import Gemma2PreTrainedModel

from iwpo_fast.config import LoraConfig, ModelConfig
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models import load, load_policy
from iwpo_fast.models.attention import choice
from iwpo_fast.models.probe import largest_error
from iwpo_fast.world import World


def test_a_backend_that_does_not_suit_the_model_is_passed_over(policy_of, batch, monkeypatch) -> None:
    monkeypatch.setattr(choice, "suited", lambda device, dtype: ["varlen", "sdpa_by_length"])
    mla = {"model_type": "deepseek_v3", "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4,
           "qk_nope_head_dim": 4, "v_head_dim": 6, "n_routed_experts": 4, "n_group": 2, "topk_group": 1,
           "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_key_value_heads": 4, "head_dim": 4}  # fmt: skip
    policy = policy_of("llama", changes=mla)
    assert (policy.layout, policy.attention) == ("shared", "sdpa_by_length")
    assert policy.attention_reason == "not varlen: flash attention wants heads of one size, at most 256"
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
    assert ((policy(batch) - theirs).abs() <= 5e-6 * (1 + theirs.abs())).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_gpu_computes_in_bf16_with_float32_master_weights(
    policy_of, batch, tmp_path, tokenizer, family, lora
) -> None:
    exact = policy_of(family, lora=lora)(batch)
    config = ModelConfig(path=str(tmp_path / family), lora=lora)
    policy = load_policy(config, tokenizer, World(0, 1, torch.device("cuda")), seed=3, max_length=20)
    if family == "gemma2":
        assert policy.attention not in ("varlen", "sdpa_by_length", "eager"), "they have no softcap, or are padded"
    assert {p.dtype for p in policy.trainable_parameters().values()} == {torch.float32}
    frozen = {p.dtype for p in policy.parameters() if not p.requires_grad}
    assert frozen == ({torch.bfloat16} if lora else set())
    logps = policy(batch.to(policy.device))
    assert 0 < (logps.cpu() - exact).abs().max() < 0.5
    assert all(g.isfinite().all() for g in gradients(logps.cpu(), policy).values())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_layouts_give_the_same_log_probs_and_gradients(policy_of, batch, family) -> None:
    policy = policy_of(family)
    backend = "eager_by_length" if family == "gemma2" else "sdpa_by_length"
    assert (policy.layout, policy.attention) == ("shared", backend)
    shared = policy(batch)
    shared_gradients = gradients(shared, policy)
    policy.run_flat("for comparison", policy.attention, share_prompts=False)
    flat = policy(batch)
    flat_gradients = gradients(flat, policy)
    policy.run_padded("for comparison")
    assert policy.attention in ("sdpa", "eager")
    padded = policy(batch)
    padded_gradients = gradients(padded, policy)
    for ours, our_gradients in ((shared, shared_gradients), (flat, flat_gradients)):
        assert ((ours - padded).abs() <= 5e-6 * (1 + padded.abs())).all()
        assert_same_gradients(our_gradients, padded_gradients)


@pytest.mark.slow
@pytest.mark.parametrize("supports_sdpa", [True, False], ids=["transformers_5_17", "transformers_5_23"])
def test_attention_keeps_its_softcap_where_transformers_would_take_sdpa(
    policy_of, batch, monkeypatch, supports_sdpa
) -> None:
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", supports_sdpa)
    policy = policy_of("gemma2")
    assert policy.attention == "eager_by_length"
    assert largest_error(policy) <= 1e-4
    flat = policy(batch)
    policy.run_padded("for comparison")
    assert policy.attention == "eager"
    padded = policy(batch)
    assert ((flat - padded).abs() <= 5e-6 * (1 + padded.abs())).all()
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
    assert ((padded - theirs).abs() <= 5e-6 * (1 + theirs.abs())).all()


def test_without_a_softcap_the_model_keeps_the_attention_that_transformers_takes(policy_of, monkeypatch) -> None:
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)
    policy = policy_of("gemma2", changes={"attn_logit_softcapping": None}, batch_layout="padded")
    assert policy.attention == "sdpa"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_backward_pass_sorts_the_rows_that_the_head_reads(policy_of, batch, layout) -> None:
    """The backward pass of an index by a tensor does, on a GPU."""
    policy = policy_of("llama", **LAYOUTS[layout])
    ready, used = policy.ready(batch), set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            used.add(func.overloadpacket)
            return func(*args, **kwargs or {})

    with Watch():
        policy(ready).sum().backward()
    assert torch.ops.aten.mm in used
    assert not used & {torch.ops.aten.index_put, torch.ops.aten.index_put_, torch.ops.aten._index_put_impl_}


def test_flat_batches_do_not_run_while_the_models_own_attention_is_lent(policy_of, batch) -> None:
    policy = policy_of("llama")
    with policy.plain_attention(), pytest.raises(AssertionError, match="does not see where flat sequences begin"):
        policy(batch)


def test_only_the_shared_layout_runs_each_prompt_once(policy_of, batch) -> None:
    policy = policy_of("llama")
    seen = []
    policy.head.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
    policy(batch)
    policy.run_flat("for comparison", policy.attention, share_prompts=False)
    policy(batch)
    assert seen == [batch.tokens, batch.expand_index.numel()] == [37, 59]


@pytest.mark.slow
def test_pairs_cost_as_many_tokens_as_their_layout_runs(policy_of) -> None:
    pairs = Pairs(*(Ragged.from_rows([[5] * n]) for n in (3, 4, 2)), weight=np.ones(1))
    policy = policy_of("llama")
    assert policy.tokens(pairs).tolist() == [9]
    for layout in ("flat", "padded"):
        assert policy_of("llama", **LAYOUTS[layout]).tokens(pairs).tolist() == [12]


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
def test_a_sequence_does_not_see_its_neighbours(policy_of, batch, options) -> None:
    policy = policy_of("llama", **options)
    completion = slice(int(batch.hidden_index[0]) + 1, int(batch.cu_laid_out[1]))
    other = batch.input_ids.clone()
    other[completion] = (other[completion] + 1) % 200
    before, after = policy(batch), policy(replace(batch, input_ids=other))
    first = int(batch.segments[1])
    assert not torch.equal(before[:first], after[:first])
    assert torch.equal(before[first:], after[first:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("llama", {"model_type": "gpt_oss", "num_local_experts": 2, "num_experts_per_tok": 1,
                   "layer_types": ["full_attention"] * 2}, "attention sinks"),
        ("llama", {"model_type": "llama4_text", "num_local_experts": 2, "intermediate_size_mlp": 48},
         "layers of type chunked_attention"),
        ("llama", {"model_type": "qwen2_moe", "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
                   "shared_expert_intermediate_size": 16, "use_sliding_window": True, "sliding_window": 4,
                   "max_window_layers": 2}, "its log-probs would differ"),
        ("llama", {"model_type": "nemotron"}, "does not hand keyword arguments on"),
        ("llama", {"model_type": "mamba", "state_size": 4}, "does not take its attention from"),
        ("llama", {"model_type": "bloom", "n_head": 4, "n_layer": 2}, "does not take its attention from"),
    ],
)  # fmt: skip
def test_models_that_cannot_run_flat_are_padded_or_refused_with_the_reason(
    policy_of, batch, family, changes, reason
) -> None:
    policy = policy_of(family, changes=changes)
    assert policy.layout == "padded"
    assert reason in policy.layout_reason
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
    assert ((policy(batch) - theirs).abs() <= 5e-6 * (1 + theirs.abs())).all()
    with pytest.raises(ValueError, match=f"batch_layout is flat but.*cannot run flat.*{reason}.*: set auto or padded"):
        policy_of(family, changes=changes, batch_layout="flat")
    with pytest.raises(ValueError, match=f"share_prompts is true but.*cannot share.*{reason}.*: set auto or false"):
        policy_of(family, changes=changes, share_prompts=True)


@pytest.mark.parametrize(("layout", "options"), LAYOUTS.items())
def test_the_layout_is_a_choice(policy_of, layout, options) -> None:
    policy = policy_of("llama", **options)
    assert (policy.layout, policy.layout_reason) == (layout, "asked for")


def test_padded_batches_with_shared_prompts_are_refused(policy_of) -> None:
    with pytest.raises(ValueError, match=r"share_prompts is true but .*batch_layout is padded"):
        policy_of("llama", batch_layout="padded", share_prompts=True)


@pytest.mark.slow
def test_prompts_are_not_shared_where_log_probs_would_differ(policy_of, monkeypatch) -> None:
    error = load.largest_error
    monkeypatch.setattr(load, "largest_error", lambda p, n: float("inf") if p.layout == "shared" else error(p, n))
    policy = policy_of("llama")
    assert (policy.layout, policy.layout_reason) == ("flat", "with shared prompts its log-probs would differ")
    with pytest.raises(ValueError, match=r"cannot share them, its log-probs would differ.*: set auto or false"):
        policy_of("llama", share_prompts=True)


def test_prompts_are_not_shared_on_a_gpu_unless_asked_for() -> None:
    gpu = torch.device("cuda")
    [(share, reason)] = load._sharing(ModelConfig(), gpu)
    assert not share and reason == "on cuda prompts are shared only where model.share_prompts is true"
    assert load._sharing(ModelConfig(share_prompts=True), gpu) == [(True, "asked for")]


@pytest.mark.slow
def test_the_model_can_generate_with_its_own_attention(policy_of, batch) -> None:
    policy = policy_of("llama")
    prompt, before = batch.input_ids[None, :3], policy(batch)
    with policy.plain_attention() as model:
        generated = model.generate(prompt, max_new_tokens=4, do_sample=False)
        greedy = model(generated[:, :-1], use_cache=False).logits[0, 2:].argmax(-1)
    assert torch.equal(generated[0, 3:], greedy)
    assert torch.equal(policy(batch), before)
