"""`log_probs_of` against cross-entropy on the model's own logits."""

from __future__ import annotations

import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from iwpo_fast.models import log_probs_of

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def model_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "gemma2":  # caps its logits
        return Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=16, final_logit_softcapping=2.0))
    if kind == "cohere":  # scales them
        return CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.25))
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    if kind == "lora":
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    return model


def batch_of() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(97, (3, 11), generator=generator)
    mask = torch.ones_like(tokens)
    mask[2, 7:] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    labels[0, :5] = -100
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def by_logits(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none")
    return torch.nn.functional.pad(-losses, (1, 0))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "lora"])
def test_log_probs_and_gradients_are_those_of_the_models_own_logits(kind) -> None:
    model, batch = model_of(kind), batch_of()
    coefficients = torch.randn(3, 11, generator=torch.Generator().manual_seed(2))
    found = []
    for values in (log_probs_of(model, batch), by_logits(model, batch)):
        model.zero_grad()
        (values * coefficients).sum().backward()
        found.append([values.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_autocast_is_followed() -> None:
    model, batch = model_of("llama"), batch_of()
    with torch.autocast("cpu", torch.bfloat16):
        found = log_probs_of(model, batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, by_logits(model, batch), rtol=0.02, atol=0.1)


@pytest.mark.parametrize("labels", [None, torch.zeros(3, 10, dtype=torch.int64)])
def test_labels_of_another_shape_are_one_sentence(labels) -> None:
    batch = batch_of() | {"labels": labels}
    with pytest.raises(ValueError, match="needs labels of the shape of input_ids"):
        log_probs_of(model_of("llama"), batch)


@pytest.mark.parametrize(
    "batch", [batch_of()["input_ids"], {"labels": batch_of()["labels"]}], ids=["tensor", "no tokens"]
)
def test_what_is_no_batch_is_one_sentence(batch) -> None:
    with pytest.raises(ValueError, match=r'pass \{"input_ids": tokens, "labels": labels\}'):
        log_probs_of(model_of("llama"), batch)
