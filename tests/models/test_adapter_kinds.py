"""DoRA, rsLoRA and modules trained whole: the reference, the head, what is saved and what is merged."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from families import assert_same_gradients, gradients, plain_logps
from peft import AutoPeftModelForCausalLM
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoModelForCausalLM

from iwpo_fast.config import LoraConfig
from iwpo_fast.models import Policy
from iwpo_fast.models.pretrained import Source
from iwpo_fast.models.saving import merge, save
from iwpo_fast.models.trained import read_adapter

KINDS = {
    "dora": {"dora": True},
    "rslora": {"rslora": True},
    "head": {"modules_to_save": ["lm_head"]},
    "embedding": {"modules_to_save": ["embed_tokens"]},
    "both": {"dora": True, "modules_to_save": ["embed_tokens", "lm_head"]},
}

pytestmark = pytest.mark.filterwarnings("ignore:.*tie:UserWarning", "ignore:.*tied:UserWarning")


def stir(policy: Policy) -> None:
    """Give everything that is trained something to say."""
    generator = torch.Generator().manual_seed(5)
    for parameter in policy.trainable_parameters().values():
        parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_is_its_base_at_first_and_its_own_afterwards_wherever_it_is_loaded(
    policy_of, batch, tokenizer, tmp_path, family, kind
) -> None:
    base = policy_of(family)
    policy = policy_of(family, lora=LoraConfig(rank=4, alpha=8, **KINDS[kind]))
    assert policy.fingerprint == base.fingerprint  # so that log-probs of the reference are found again
    before = base(batch)
    assert (policy(batch) - before).abs().max() < 1e-5
    stir(policy)
    ours = policy(batch)
    assert (ours - before).abs().max() > 0.05
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
        expected = gradients(theirs, policy)
    assert (ours - theirs).abs().max() < 1e-4
    assert_same_gradients(gradients(ours, policy), expected)
    with torch.no_grad(), policy.disable_adapter():
        assert torch.equal(policy(batch), before.detach())

    with torch.no_grad():
        policy.save(tmp_path / "adapter", tokenizer)
        loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
        assert (plain_logps(loaded, batch) - ours).abs().max() < 1e-4
        path = str(tmp_path / family)
        read = read_adapter(Source(str(tmp_path / "adapter"), "model"), Source(path, "base"), torch.float32)
        save(merge(read), tmp_path / "merged", None, torch.float32)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
        assert (plain_logps(merged, batch) - ours).abs().max() < 1e-4


def test_rslora_scales_by_the_root_of_the_rank(policy_of) -> None:
    policy = policy_of("llama", lora=LoraConfig(rank=4, alpha=8, rslora=True))
    scales = {module.scaling["default"] for module in policy.modules() if isinstance(module, LoraLayer)}
    assert scales == {8 / math.sqrt(4)}


def test_a_module_that_is_not_there_is_refused(policy_of) -> None:
    with pytest.raises(ValueError, match="modules_to_save names embed, and the model has no such module"):
        policy_of("llama", lora=LoraConfig(modules_to_save=["embed"]))


def test_what_is_trained_whole_is_float32_on_a_base_in_half(policy_of) -> None:
    from iwpo_fast.models.adapters import with_lora

    model = copy.deepcopy(policy_of("llama").causal_lm).to(torch.bfloat16)
    adapted = with_lora(model, LoraConfig(modules_to_save=["lm_head"]), seed=0)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    head = adapted.get_base_model().get_output_embeddings()
    assert isinstance(head.original_module, nn.Linear) and head.original_module.weight.dtype == torch.bfloat16
