"""Tiny random models of many families, a batch for them, and the plain computation they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models import Policy

# Wide initial weights give log-probs that differ by several nats, and logits that reach the softcaps.
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "llama_tied": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": None},
    "gemma2": {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0, "sliding_window": 4},
    "gemma3_text": {"final_logit_softcapping": 3.0, "sliding_window": 4},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "sliding_window": 4},
    "granite": {"logits_scaling": 4.0, "attention_multiplier": 0.3},
    "phi": {"tie_word_embeddings": False},
    "phi3": {"tie_word_embeddings": False},
    "gpt2": {"attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1},
}

LAYOUTS: dict[str, dict[str, Any]] = {
    "shared": {"share_prompts": True},
    "flat": {"share_prompts": False},
    "padded": {"batch_layout": "padded"},
}
"""Settings of the model that ask for each layout."""


def save_model(folder: Path, family: str, tokenizer: PreTrainedTokenizerBase, **changes: Any) -> Path:
    """Write a model of the family with random weights, and the tokenizer, as `save_pretrained` does."""
    settings = SHAPE | {"vocab_size": len(tokenizer)} | FAMILIES[family] | changes
    config = AutoConfig.for_model(settings.pop("model_type", family), **settings)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_batch(vocab_size: int, seed: int = 0) -> FlatBatch:
    """Three pairs of unequal lengths with random tokens, and a fourth with the prompt of the third."""
    rng = np.random.default_rng(seed)

    def rows(*lengths: int) -> list[np.ndarray]:
        return [rng.integers(0, vocab_size, n) for n in lengths]

    prompts = rows(3, 1, 6)
    texts = [*prompts, prompts[-1]], rows(4, 1, 2, 5), rows(2, 9, 1, 3)
    pairs = Pairs(*(Ragged.from_rows(part) for part in texts), weight=np.ones(4))
    return flat_batch(pairs, np.arange(4))


def plain_logps(model: torch.nn.Module, batch: FlatBatch) -> Tensor:
    """[N] log-probs from the model's own logits, one sequence at a time; the softmax is float64."""
    whole = batch.input_ids[batch.expand_index].split(batch.cu_seqlens.diff().tolist())
    completions = batch.segments.diff().tolist()
    logps = []
    for sequence, n in zip(whole, completions, strict=True):
        logits = model(input_ids=sequence[None], use_cache=False).logits[0, -n - 1 : -1]
        logps.append(logits.double().log_softmax(-1).gather(-1, sequence[-n:, None]).squeeze(-1))
    return torch.cat(logps)


def gradients(logps: Tensor, policy: Policy) -> dict[str, Tensor]:
    """Gradients of a fixed weighted sum of the log-probs, by parameter name."""
    parameters = policy.trainable_parameters()
    coefficients = torch.linspace(-1.0, 2.0, logps.numel(), dtype=logps.dtype)
    found = torch.autograd.grad(logps @ coefficients, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], rtol: float = 2e-5) -> None:
    """Equal to `rtol` of the largest entry of each parameter's gradient."""
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        error = (ours[name] - gradient).abs().max()
        assert error <= rtol * gradient.abs().max() + 1e-7, (name, error.item(), gradient.abs().max().item())
