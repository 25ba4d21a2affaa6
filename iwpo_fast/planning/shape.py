"""The policy without its values: every shape and type of it, and no memory."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from iwpo_fast.config import LoraConfig, TrainConfig
from iwpo_fast.models.adapters import shaped_like, with_lora
from iwpo_fast.models.attention import why_not_flat
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.pretrained import Source, read_pretrained
from iwpo_fast.models.tiny import tiny_model

EMPTY = torch.device("meta")


class Shape(NamedTuple):
    """A policy, and where its shape is from, in words."""

    policy: Policy
    source: str


def shape_of(config: TrainConfig, tokenizer: PreTrainedTokenizerBase | None, lora: LoraConfig | None) -> Shape:
    """The policy as it would be on a GPU, on the device `meta`.

    Args:
        tokenizer: what the built-in model takes its vocabulary from; None where the data are not here.
        lora: the adapter on it; None trains all weights.

    Raises:
        ValueError: neither the model nor `plan.model` says what its shape is.
    """
    if config.model.path == "tiny" and tokenizer is None:
        raise ValueError("model.path is tiny, whose vocabulary is made from the data, which are not here.")
    half = config.model.precision != "fp32"
    with EMPTY:
        if config.model.path == "tiny":
            assert tokenizer is not None
            source, model = "the built-in tiny", tiny_model(config.model.tiny, tokenizer, config.seed)
        else:
            settings, source = _settings(config)
            model = AutoModelForCausalLM.from_config(settings, trust_remote_code=config.model.trust_remote_code)
        adapted = lora is not None or config.model.adapter is not None
        model = cast(Any, model).to(torch.bfloat16 if half and adapted else torch.float32)
        policy = Policy(_adapted(model, config, lora), _compute_type(half))
    if config.model.batch_layout != "padded" and why_not_flat(policy.causal_lm) is None:
        policy.layout = "shared" if config.model.share_prompts is True else "flat"
    return Shape(policy, source)


def _adapted(model: PreTrainedModel, config: TrainConfig, lora: LoraConfig | None) -> PreTrainedModel | PeftModel:
    if lora is not None:
        return with_lora(model, lora, config.seed)
    return model if config.model.adapter is None else shaped_like(model, config.model)


def _compute_type(half: bool) -> torch.dtype:
    return torch.bfloat16 if half else torch.float32


def _settings(config: TrainConfig) -> tuple[PreTrainedConfig, str]:
    """The model's configuration, from its folder or the cache, or else from `plan.model`; and which."""
    path, assumed = config.model.path, config.plan.model
    try:
        settings = read_pretrained(AutoConfig, Source.of(config.model), "model", local_files_only=True)
        return settings, f"{path}, as its config.json says"
    except ValueError as refusal:
        if assumed is None and not isinstance(refusal.__cause__, OSError):
            raise
        if assumed is None:
            raise ValueError(
                f"model.path {path} is not here, so its shape is not known: set plan.model to what its config.json "
                "says, such as {model_type: mistral, hidden_size: 4096}."
            ) from None
    return _assumed(assumed), f"{path} is not here; assumed, from plan.model"


def _assumed(values: dict[str, Any]) -> PreTrainedConfig:
    """Raise ValueError if the values are not those of a language model that transformers knows."""
    kind, given = values.get("model_type"), {name: value for name, value in values.items() if name != "model_type"}
    if not isinstance(kind, str):
        raise ValueError("plan.model has no model_type: add it, such as mistral, as the model's config.json has it.")
    # Recipes may write whole numbers like others.
    whole = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value for name, value in given.items()
    }
    try:
        settings = AutoConfig.for_model(kind, **whole)
        unknown = sorted(given.keys() - AutoConfig.for_model(kind).to_dict().keys())
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"plan.model is no configuration that transformers knows ({_first(error)}).") from None
    if unknown:
        raise ValueError(f"plan.model has {unknown[0]}, which transformers' {kind} does not have: leave it out.")
    return settings


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:120].rstrip(".") if str(error) else type(error).__name__
