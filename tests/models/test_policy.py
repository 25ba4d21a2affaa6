"""What a policy promises beside its log-probs: saving, fingerprints, checkpointed gradients, adapters."""

from __future__ import annotations

import json

import pytest
import torch
from families import LAYOUTS, make_batch, plain_logps
from peft import AutoPeftModelForCausalLM
from safetensors import safe_open
from test_head import assert_close_logps, stir_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer

from iwpo_fast.config import LoraConfig, ModelConfig, TinyConfig
from iwpo_fast.models import load_policy
from iwpo_fast.models.saving import fingerprint
from iwpo_fast.world import World

CPU = torch.device("cpu")


def shake(policy) -> None:
    """Move every trained weight, as training does."""
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.trainable_parameters().values():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "llama_tied", "gemma2", "cohere", "gpt2"])
def test_a_saved_model_gives_the_same_log_probs_in_plain_transformers(
    policy_of, tokenizer, batch, tmp_path, family
) -> None:
    policy = policy_of(family)
    shake(policy)
    policy.save(tmp_path / "saved", tokenizer)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation=policy.native_attention)
    assert_close_logps(policy(batch), plain_logps(loaded.eval(), batch))
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").get_vocab() == tokenizer.get_vocab()
    assert json.loads((tmp_path / "saved" / "config.json").read_text()).get("use_cache", True)
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float32}  # noqa: SIM118


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]], ids=["all_linear", "lm_head"])
@pytest.mark.parametrize("family", ["llama", "llama_tied"])
@pytest.mark.filterwarnings("ignore:.*tie:UserWarning")
def test_a_saved_adapter_gives_the_same_log_probs_in_plain_peft(
    policy_of, tokenizer, batch, tmp_path, family, targets
) -> None:
    policy = policy_of(family, lora=LoraConfig(rank=4, target_modules=targets))
    stir_adapter(policy)
    policy.save(tmp_path / "saved", tokenizer)
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert_close_logps(policy(batch), plain_logps(loaded.eval(), batch))


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]], ids=["all_linear", "lm_head"])
@pytest.mark.filterwarnings("ignore:.*tie:UserWarning")
def test_an_adapter_on_the_tiny_model_is_saved_as_a_whole_model(tokenizer, batch, tmp_path, targets) -> None:
    config = ModelConfig(tiny=TinyConfig(hidden_size=32), lora=LoraConfig(rank=4, target_modules=targets))
    policy = load_policy(config, tokenizer, World(0, 1, CPU), seed=0)
    stir_adapter(policy)
    before = policy(batch)
    policy.save(tmp_path / "saved", tokenizer)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert_close_logps(before, plain_logps(loaded.eval(), batch))
    assert torch.equal(policy(batch), before)


@pytest.mark.slow
def test_only_adapters_are_trained_with_lora_and_everything_without(policy_of) -> None:
    full, lora = policy_of("llama"), policy_of("llama", lora=LoraConfig(rank=4))
    assert not full.has_adapter and lora.has_adapter
    assert len(full.trainable_parameters()) == len(list(full.parameters()))
    assert lora.trainable_parameters() and all("lora_" in name for name in lora.trainable_parameters())
    with pytest.raises(AssertionError, match="without an adapter"):
        full.disable_adapter()


def test_an_adapter_trains_again_after_it_was_off(policy_of, batch) -> None:
    policy = policy_of("llama", lora=LoraConfig(rank=4))
    names = policy.trainable_parameters().keys()
    with policy.disable_adapter():
        policy(batch)
    assert policy.trainable_parameters().keys() == names


@pytest.mark.slow
def test_the_fingerprint_is_that_of_the_base_weights(policy_of, tmp_path) -> None:
    full, lora = policy_of("llama"), policy_of("llama", lora=LoraConfig(rank=4))
    stir_adapter(lora)
    assert fingerprint(full.causal_lm) == fingerprint(lora.causal_lm)
    assert full.fingerprint != policy_of("llama", changes={"rope_theta": 500.0}).fingerprint
    before = full.fingerprint
    assert before == fingerprint(full.causal_lm)
    with torch.no_grad():
        full.head.linear.weight[3, 4] += 1e-3
    assert fingerprint(full.causal_lm) != before == full.fingerprint


@pytest.mark.slow
def test_bf16_compute_stays_close_to_fp32_and_is_used_in_the_products(policy_of, batch) -> None:
    exact, rounded = policy_of("llama")(batch), policy_of("llama", precision="bf16")(batch)
    assert rounded.dtype == torch.float32
    error = (exact - rounded).abs().max()
    assert 1e-4 < error < 0.5


@pytest.mark.slow
def test_hidden_states_of_all_layouts_are_those_of_the_tokens_as_they_are_laid_out(policy_of, tokenizer) -> None:
    batch = make_batch(len(tokenizer), seed=4)
    shared, flat, padded = (policy_of("llama", **options).hidden_states(batch) for options in LAYOUTS.values())
    assert shared.shape == flat.shape == padded.shape == (batch.tokens, 32)
    assert max((flat - padded).abs().max(), (shared - padded).abs().max()) <= 2e-5


@pytest.mark.slow
def test_loading_and_running_leave_the_random_state_alone(policy_of, batch) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    policy = policy_of("llama", lora=LoraConfig(rank=4))
    torch.manual_seed(5)
    load_policy(
        ModelConfig(path=policy.causal_lm.name_or_path, lora=LoraConfig(rank=4)),
        AutoTokenizer.from_pretrained(policy.causal_lm.name_or_path), World(0, 1, CPU), seed=8,
    )  # fmt: skip
    policy(batch)
    assert torch.equal(torch.rand(3), expected)
