"""A small model on disk, and an adapter for it that changes what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from iwpo_fast.models.tiny import train_tokenizer

TEXTS = ["The quick brown fox jumps over the lazy dog.", "How vexingly quick daft zebras jump!"] * 3
SHAPE = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_base(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A random Llama with a tokenizer, of at most 320 entries and with a chat template, in `folder`."""
    tokenizer = train_tokenizer(TEXTS, 320)
    torch.manual_seed(seed)
    settings = SHAPE | {"max_position_embeddings": 256, "initializer_range": 0.3} | changes
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **settings))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path) -> Path:
    """Random low-rank changes of all linear layers of `base`."""
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    train_tokenizer(TEXTS, 320).save_pretrained(folder)
    return folder
