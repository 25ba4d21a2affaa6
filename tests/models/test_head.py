"""Log-probs and gradients without logits are those of each family's own logits."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, assert_same_gradients, gradients, plain_logps
from torch import nn
from transformers import GemmaConfig, GemmaForCausalLM, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from iwpo_fast.config import LoraConfig
from iwpo_fast.models import LMHead
from iwpo_fast.models.policy import Policy


def assert_close_logps(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Both sides are fp32 up to the logits; they carry a few units of rounding of the log-prob's size."""
    assert ours.dtype == torch.float32
    assert ((ours - theirs).abs() <= 5e-6 * (1 + theirs.abs())).all()


def stir_adapter(policy: Policy) -> None:
    """New adapters add nothing; give them something to add."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in policy.trainable_parameters().items():
        if "lora_B" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_gradients_are_those_of_the_models_own_logits(policy_of, batch, family) -> None:
    policy = policy_of(family)
    assert policy.layout == "shared"
    ours = policy(batch)
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
        expected = gradients(theirs, policy)
    assert_close_logps(ours, theirs)
    assert_same_gradients(gradients(ours, policy), expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "llama_tied", "gemma2", "cohere", "phi", "gpt2"])
@pytest.mark.parametrize("targets", ["all-linear", ["lm_head"]], ids=["all_linear", "lm_head"])
@pytest.mark.filterwarnings("ignore:.*tie:UserWarning", "ignore:.*fan_in_fan_out:UserWarning")
def test_adapters_also_on_the_head_are_served_exactly(policy_of, batch, family, targets) -> None:
    policy = policy_of(family, lora=LoraConfig(rank=4, target_modules=targets))
    with policy.disable_adapter():
        base = policy(batch)
    stir_adapter(policy)
    ours = policy(batch)
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
        expected = gradients(theirs, policy)
    assert_close_logps(ours, theirs)
    assert (ours - base).abs().max() > 0.1
    assert_same_gradients(gradients(ours, policy), expected)
    with policy.disable_adapter():
        assert torch.equal(policy(batch), base)


def test_dropout_of_an_adapter_on_the_head_is_applied_as_the_adapter_does(policy_of, batch) -> None:
    policy = policy_of("llama", lora=LoraConfig(rank=4, dropout=0.5, target_modules=["lm_head"]))
    stir_adapter(policy)
    hidden = policy.hidden_states(batch).detach()
    torch.manual_seed(11)
    ours = policy.head.token_logps(hidden, batch.labels, batch.hidden_index, torch.float32)
    torch.manual_seed(11)
    logits = policy.head.module(hidden)[batch.hidden_index]
    theirs = logits.log_softmax(-1).gather(-1, batch.labels[:, None])[:, 0]
    assert_close_logps(ours, theirs)
    policy.eval()
    assert (policy.head.token_logps(hidden, batch.labels, batch.hidden_index, torch.float32) - ours).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_gradients_reach_the_master_weights_in_float32(policy_of, batch, family, dtype) -> None:
    policy = policy_of(family, precision="fp32" if dtype == torch.float32 else "bf16")
    assert policy.compute_dtype == dtype
    logps = policy(batch)
    assert logps.dtype == torch.float32
    logps.sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in policy.trainable_parameters().values())
    assert policy.head.linear.weight.grad.abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "forgotten"),
    [("gemma2", "softcap"), ("gemma3_text", "softcap"), ("cohere", "scale"), ("granite", "scale")],
)
def test_a_softcap_or_scale_that_is_not_understood_stops_the_load(policy_of, monkeypatch, family, forgotten) -> None:
    read = LMHead.__init__

    def careless(head, model) -> None:
        read(head, model)
        setattr(head, forgotten, None if forgotten == "softcap" else 1.0)

    monkeypatch.setattr(LMHead, "__init__", careless)
    with pytest.raises(ValueError, match="computes its logits in a way that is not known"):
        policy_of(family)


@pytest.mark.slow
def test_unknown_processing_of_logits_stops_the_load_and_names_the_model(policy_of, monkeypatch) -> None:
    own = LlamaForCausalLM.forward

    def forward(self, *args, **kwargs) -> CausalLMOutputWithPast:
        output = own(self, *args, **kwargs)
        output.logits = output.logits.clamp(max=4.0)
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    with pytest.raises(ValueError, match="LlamaForCausalLM computes its logits in a way"):
        policy_of("llama")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["auto", "padded"])
def test_logits_that_are_no_numbers_stop_the_load(policy_of, monkeypatch, layout) -> None:
    own = LlamaForCausalLM.forward

    def forward(self, *args, **kwargs) -> CausalLMOutputWithPast:
        output = own(self, *args, **kwargs)
        output.logits = output.logits * float("nan")
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    with pytest.raises(ValueError, match="LlamaForCausalLM computes its logits in a way"):
        policy_of("llama", batch_layout=layout)


def test_a_head_that_is_not_linear_is_refused_by_name() -> None:
    model = LlamaForCausalLM(
        LlamaForCausalLM.config_class(vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=1)
    )
    model.lm_head = nn.Sequential(nn.Linear(32, 40))
    with pytest.raises(ValueError, match="LlamaForCausalLM has an LM head of type Sequential"):
        LMHead(model)


def test_a_tied_head_is_the_embedding_itself() -> None:
    model = GemmaForCausalLM(
        GemmaConfig(vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4)
    )
    assert LMHead(model).linear.weight is model.get_input_embeddings().weight
