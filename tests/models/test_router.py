"""The router's auxiliary loss is the one that the model computes itself, and trains where its configuration asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import SHAPE, make_batch
from transformers import AutoConfig, AutoModelForCausalLM

from iwpo_fast.config import ModelConfig
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.padding import pad
from iwpo_fast.models.router import RouterLoss
from iwpo_fast.world import World

FAMILIES = {
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": ["full_attention"] * 2},
}


def policy_with(tmp_path, tokenizer, family: str, layout: str = "auto", **changes) -> Policy:
    asks = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
    settings = SHAPE | {"vocab_size": len(tokenizer)} | FAMILIES[family] | asks | changes
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = ModelConfig(path=str(tmp_path), batch_layout=layout)
    return load_policy(config, tokenizer, World(0, 1, torch.device("cpu")), seed=0, max_length=20)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["auto", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_equals_the_models_own_over_the_full_sequences(tmp_path, tokenizer, family, layout) -> None:
    policy, batch = policy_with(tmp_path, tokenizer, family, layout), make_batch(len(tokenizer))
    router = RouterLoss.of(policy)
    assert router is not None and router.coefficient == 0.5
    logps = policy(batch)
    ours = router(batch)
    ids, mask, _ = pad(batch)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)(ids, attention_mask=mask, use_cache=False)
    torch.testing.assert_close(ours, theirs.aux_loss, rtol=1e-5, atol=1e-6)
    (ours + 0 * logps.sum()).backward()
    routers = [p for name, p in policy.trainable_parameters().items() if "router" in name or "gate.weight" in name]
    assert routers and all(p.grad is not None and p.grad.abs().max() > 0 for p in routers)


@pytest.mark.slow
def test_a_model_that_does_not_ask_has_none(tmp_path, tokenizer, policy_of) -> None:
    assert RouterLoss.of(policy_of("llama")) is None
    assert RouterLoss.of(policy_with(tmp_path, tokenizer, "mixtral", output_router_logits=False)) is None
    assert RouterLoss.of(policy_with(tmp_path, tokenizer, "mixtral", router_aux_loss_coef=0.0)) is None


def test_a_model_that_does_not_say_how_is_refused(tmp_path, tokenizer, monkeypatch) -> None:
    policy = policy_with(tmp_path, tokenizer, "mixtral")
    monkeypatch.delattr("transformers.models.mixtral.modeling_mixtral.load_balancing_loss_func")
    with pytest.raises(ValueError, match=r"asks for the router's auxiliary loss .* set output_router_logits to false"):
        RouterLoss.of(policy)


@pytest.mark.slow
def test_shared_prompts_count_as_often_as_they_are_in_sequences(tmp_path, tokenizer) -> None:
    policy, batch = policy_with(tmp_path, tokenizer, "mixtral"), make_batch(len(tokenizer))
    assert policy.layout == "shared" and len(batch.expand_index) > batch.tokens
    router = RouterLoss.of(policy)
    assert router is not None
    policy(batch)
    logits = [layer.detach() for layer in router._logits]
    weighted = float(router(batch))
    assert router._function is not None
    once = float(router._function(tuple(logits), router._experts, router._chosen, None))
    assert not np.isclose(weighted, once, rtol=1e-4)
