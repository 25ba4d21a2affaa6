"""A 4-bit base under an adapter is the model of its dequantised weights, and stays as it was quantised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import LAYOUTS, assert_same_gradients, gradients, save_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from iwpo_fast.config import LoraConfig, ModelConfig
from iwpo_fast.models import Policy, four_bits, load_policy
from iwpo_fast.models.saving import fingerprint
from iwpo_fast.world import World

bnb = pytest.importorskip("bitsandbytes")

WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}


@pytest.fixture
def quantised(policy_of) -> Callable[..., Policy]:
    """A family's model in 4 bits, with an adapter that does something."""

    def make(family="llama", **options) -> Policy:
        return stirred(policy_of(family, changes=WIDE, lora=LoraConfig(rank=2), quantize="nf4", **options))

    return make


def stirred(policy) -> Policy:
    """The policy with random second matrices in its adapter, which are zero at first."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in policy.trainable_parameters().items():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy


def linear_layers(policy) -> dict[str, nn.Linear]:
    return {
        name.replace(".base_layer", ""): m for name, m in policy.causal_lm.named_modules() if isinstance(m, nn.Linear)
    }


def dequantised(policy, plain_folder, folder, tokenizer) -> Policy:
    """A policy that has the weights of the quantised one as plain float32."""
    model = AutoModelForCausalLM.from_pretrained(plain_folder)
    layers = {name: layer for name, layer in linear_layers(policy).items() if isinstance(layer, bnb.nn.Linear4bit)}
    for name, layer in layers.items():
        model.get_submodule(name).weight.data = bnb.functional.dequantize_4bit(
            layer.weight.data, layer.weight.quant_state
        )
    model.save_pretrained(folder)
    config = ModelConfig(path=str(folder), lora=LoraConfig(rank=2))
    return stirred(load_policy(config, tokenizer, World(0, 1, torch.device("cpu")), seed=3, max_length=20))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "llama_tied", "qwen2", "gemma2"])
def test_log_probs_and_gradients_are_those_of_the_dequantised_weights(
    quantised, batch, tokenizer, tmp_path, family
) -> None:
    plain = None
    for options in LAYOUTS.values():
        policy = quantised(family, **options)
        plain = plain or dequantised(policy, tmp_path / family, tmp_path / "plain", tokenizer)
        ours, theirs = policy(batch), plain(batch)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert_same_gradients(gradients(ours, policy), gradients(theirs, plain), rtol=1e-4)


@pytest.mark.slow
def test_all_linear_layers_but_the_head_have_4_bits(quantised) -> None:
    for family in ("llama", "llama_tied"):
        policy = quantised(family)
        layers = linear_layers(policy)
        plain = [name for name, layer in layers.items() if "lora_" not in name and type(layer) is nn.Linear]
        assert plain == ["lm_head"]
        assert sum(isinstance(layer, bnb.nn.Linear4bit) for layer in layers.values()) == 14
        embedding = policy.causal_lm.get_input_embeddings().weight
        assert embedding.dtype == torch.float32
        assert (policy.head.linear.weight is embedding) == (family == "llama_tied")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputed_layers_change_no_bit(quantised, batch, mode) -> None:
    plain, recomputed = quantised(), quantised(gradient_checkpointing=mode)
    expected, found = plain(batch), recomputed(batch)
    assert torch.equal(found, expected)
    expected, found = gradients(expected, plain), gradients(found, recomputed)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_selective_layers_run_no_quantised_product_again(quantised, batch) -> None:
    def in_backward(mode) -> int:
        policy, seen = quantised(gradient_checkpointing=mode), []
        logps = policy(batch)

        class Watching(TorchDispatchMode):
            def __torch_dispatch__(self, operator, types, args=(), kwargs=None) -> Any:
                seen.append(str(operator))
                return operator(*args, **(kwargs or {}))

        with Watching():
            gradients(logps, policy)
        return sum("gemm_4bit" in name for name in seen)

    assert in_backward("none") == in_backward("selective") == 0 < in_backward("full")


@pytest.mark.slow
def test_evaluation_leaves_weights_and_gradients_as_they_are(quantised, batch) -> None:
    policy = quantised()
    before, expected = fingerprint(policy.causal_lm), gradients(policy(batch), policy)
    policy.eval()
    with torch.no_grad(), policy.disable_adapter():
        policy(batch)
    policy.train()
    found = gradients(policy(batch), policy)
    assert fingerprint(policy.causal_lm) == before
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_the_fingerprint_is_of_codes_and_scales(quantised, policy_of) -> None:
    policy = quantised()
    assert fingerprint(policy.causal_lm) == fingerprint(quantised().causal_lm)
    plain = policy_of("llama", changes=WIDE, lora=LoraConfig(rank=2))
    assert fingerprint(policy.causal_lm) != fingerprint(plain.causal_lm)
    before = fingerprint(policy.causal_lm)
    weight = policy.causal_lm.model.layers[0].self_attn.q_proj.weight
    weight.quant_state.state2.absmax *= 2
    assert fingerprint(policy.causal_lm) != before


def test_a_weight_has_half_a_byte_and_its_scales(quantised, tokenizer, tmp_path) -> None:
    weight = quantised().causal_lm.model.layers[0].mlp.up_proj.weight
    assert four_bits.entries(weight) == 64 * 128 == 2 * weight.nbytes
    beside = four_bits.scales(weight)
    assert beside["absmax"].nbytes == 64 * 128 / 64
    folder = save_model(tmp_path / "m", "llama", tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(folder).lm_head.weight
    assert four_bits.entries(plain) == plain.numel() and not four_bits.scales(plain)
