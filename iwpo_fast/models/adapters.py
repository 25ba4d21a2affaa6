"""Low-rank adapters on the language model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from typing import cast

import peft
import torch
from torch import nn
from transformers import PreTrainedModel

from iwpo_fast.config import LoraConfig
from iwpo_fast.models.head import decoder_of


def with_lora(model: PreTrainedModel, config: LoraConfig, seed: int) -> peft.PeftModel:
    """The model with a new adapter; `all-linear` adapts the language model alone.

    Raises:
        ValueError: the adapter does not fit the model.
    """
    adapter = peft.LoraConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        r=config.rank,
        lora_alpha=cast(int, config.alpha),  # peft takes fractions too
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        exclude_modules=_outside(model) if config.target_modules == "all-linear" else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, adapter)
        except ValueError as error:
            raise ValueError(
                f"model.lora does not fit {type(model).__name__}: {str(error).splitlines()[0].rstrip('.')}."
            ) from error


def freeze_outside(model: PreTrainedModel) -> None:
    """Let only the language model train: text gives towers for images and sound no gradient."""
    inside = {decoder_of(model), model.get_output_embeddings()}
    trained = {id(parameter) for part in inside if part is not None for parameter in part.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)


def _outside(model: PreTrainedModel) -> str | None:
    """Pattern of the names of modules that are not of the language model; None where none of them is linear."""
    inside = {*decoder_of(model).modules(), model.get_output_embeddings()}
    towers = [name for name, tower in _towers(model, inside) if any(isinstance(m, nn.Linear) for m in tower.modules())]
    return rf"({'|'.join(map(re.escape, towers))})(\..*)?" if towers else None


def _towers(module: nn.Module, inside: Set[nn.Module | None], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the largest parts that have nothing of `inside`."""
    for name, child in module.named_children():
        if child in inside:
            continue
        if inside.isdisjoint(child.modules()):
            yield prefix + name, child
        else:
            yield from _towers(child, inside, f"{prefix}{name}.")
