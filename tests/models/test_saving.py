"""What a model's fingerprint sees, and the type in which a model is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import SHAPE, save_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from iwpo_fast.config import LoraConfig, ModelConfig, TinyConfig
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.saving import fingerprint
from iwpo_fast.world import World

EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 1,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
ROUTERS = {
    "deepseek_v3": EXPERTS | LATENT | {"num_key_value_heads": 4},
    "glm4_moe": EXPERTS,
    "dots1": EXPERTS,
}


def load(folder, tokenizer, **options) -> Policy:
    config = ModelConfig(path=str(folder), **options)
    return load_policy(config, tokenizer, World(0, 1, torch.device("cpu")), seed=0, max_length=20)


@pytest.mark.parametrize("family", ROUTERS)
def test_a_buffer_that_is_saved_changes_the_fingerprint(family) -> None:
    torch.manual_seed(0)
    settings = SHAPE | {"vocab_size": 100} | ROUTERS[family]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    before = fingerprint(model)
    (name,) = [name for name in model.state_dict() if name.endswith("e_score_correction_bias")]
    biases = model.state_dict()[name]
    assert name not in dict(model.named_parameters())
    biases[0] += 1
    assert fingerprint(model) != before
    biases[0] -= 1
    assert fingerprint(model) == before


def test_buffers_that_are_made_anew_do_not(policy_of) -> None:
    model = policy_of("llama").causal_lm
    before = fingerprint(model)
    dict(model.named_buffers())["model.rotary_emb.inv_freq"].mul_(2)
    assert fingerprint(model) == before


@pytest.fixture
def half(tmp_path, tokenizer) -> Path:
    folder = save_model(tmp_path / "half", "llama_tied", tokenizer)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "expected"), [("base", "bfloat16"), ("float32", "float32"), ("bfloat16", "bfloat16")]
)
def test_a_model_is_saved_in_the_type_asked_for(half, tmp_path, tokenizer, asked, expected) -> None:
    policy = load(half, tokenizer)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter += 1e-3
    policy.save(tmp_path / "out", tokenizer, None, policy.saved_dtype(asked))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == expected
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {getattr(torch, expected)}
    assert "lm_head.weight" not in saved  # tied weights are there once
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.dtype == getattr(torch, expected)
    for name, parameter in policy.causal_lm.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter.to(getattr(torch, expected)))
    assert {p.dtype for p in policy.parameters()} == {torch.float32}  # the policy itself is as it was


@pytest.mark.slow
def test_parts_of_a_configuration_say_the_same_type(tmp_path, tokenizer) -> None:
    from test_adapters import gemma3

    gemma3(SHAPE | {"vocab_size": len(tokenizer)}).to(torch.bfloat16).save_pretrained(tmp_path / "m")
    policy = load(tmp_path / "m", tokenizer)
    policy.save(tmp_path / "out", tokenizer, None, policy.saved_dtype("base"))
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {settings["dtype"], settings["text_config"]["dtype"], settings["vision_config"]["dtype"]} == {"bfloat16"}


@pytest.mark.slow
def test_an_adapter_stays_float32_unless_another_type_is_asked_for(half, tmp_path, tokenizer) -> None:
    policy = load(half, tokenizer, lora=LoraConfig(rank=2))
    for asked, expected in (("base", torch.float32), ("bfloat16", torch.bfloat16)):
        policy.save(tmp_path / asked, tokenizer, None, policy.saved_dtype(asked))
        saved = load_file(tmp_path / asked / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {expected}


@pytest.mark.slow
def test_a_merged_tiny_model_is_float32_or_as_asked(tmp_path, tokenizer) -> None:
    config = ModelConfig(tiny=TinyConfig(vocab_size=320, hidden_size=32, layers=1, heads=2), lora=LoraConfig(rank=2))
    policy = load_policy(config, tokenizer, World(0, 1, torch.device("cpu")), seed=0)
    for asked, expected in (("base", torch.float32), ("bfloat16", torch.bfloat16)):
        policy.save(tmp_path / asked, tokenizer, None, policy.saved_dtype(asked))
        assert AutoModelForCausalLM.from_pretrained(tmp_path / asked).dtype == expected
        assert len(AutoTokenizer.from_pretrained(tmp_path / asked)) == len(tokenizer)
