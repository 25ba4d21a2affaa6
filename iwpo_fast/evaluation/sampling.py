"""Completions sampled from a causal language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def sample_completions(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    batch_size: int = 128,
) -> list[str]:
    """One completion for each prompt, from the full distribution: no top-k, no top-p.

    The same model, prompts, seed and batch size give the same completions on the same machine. The global random
    state stays as it was.

    Args:
        model: any causal language model of transformers; it is left in evaluation mode.
        tokenizer: its tokenizer, with a padding token.
        prompts: n texts.
        max_new_tokens: a completion ends here if it has no end-of-sequence token before.
        seed: seed of the draws.
        temperature: divides the logits; 0 takes the most probable token each time.
        batch_size: prompts that run at once.

    Returns:
        n texts without special tokens.
    """
    settings = GenerationConfig(
        do_sample=temperature > 0,
        temperature=temperature or None,
        top_k=0 if temperature > 0 else None,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.eval()
    generate = cast(Callable[..., Tensor], model.generate)
    # Prompts of similar length share a batch; each completion goes back to its own place.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    completions = [""] * len(prompts)
    cuda = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            chunk = order[start : start + batch_size]
            encoded = tokenizer(
                [prompts[i] for i in chunk],
                padding=True,
                padding_side="left",
                add_special_tokens=False,
                return_token_type_ids=False,
                return_tensors="pt",
            ).to(model.device)
            tokens = generate(**encoded, generation_config=settings)
            texts = tokenizer.batch_decode(tokens[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
            for i, text in zip(chunk, texts, strict=True):
                completions[i] = text
    return completions
