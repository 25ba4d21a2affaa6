"""Rules of the policy and its adapters."""

from __future__ import annotations

import re

from iwpo_fast.config import LoraConfig, ModelConfig, RunConfig, TinyConfig, TrainConfig
from iwpo_fast.extras import check_installed
from iwpo_fast.limits import check_limits


def check_tiny(tiny: TinyConfig) -> None:
    """Raise ValueError if the shape of the built-in model is not one that a Llama can have."""
    check_limits(tiny, "model.tiny")
    if tiny.hidden_size % 32 or tiny.hidden_size % (2 * tiny.heads):
        raise ValueError(
            f"model.tiny.hidden_size is {tiny.hidden_size}: set a multiple of 32 and of twice "
            f"model.tiny.heads ({tiny.heads})."
        )


def check_model_settings(model: ModelConfig) -> None:
    """Raise ValueError for the first setting that cannot work, whatever the device and the model."""
    check_limits(model, "model")
    if model.path == "tiny":
        check_tiny(model.tiny)
        if model.revision is not None:
            raise ValueError(f"model.revision is {model.revision} but the tiny model has none: leave it out.")
    if model.batch_layout == "padded":
        _check_padded(model)
    if model.offload_activations and model.gradient_checkpointing != "full":
        raise ValueError(
            f"model.offload_activations is true but model.gradient_checkpointing is {model.gradient_checkpointing}, "
            "and only inputs of layers are moved: set gradient_checkpointing to full, or leave offload_activations out."
        )
    if model.compile and model.gradient_checkpointing == "selective":
        raise ValueError(
            "model.gradient_checkpointing is selective and model.compile is true, but compiled layers recompute their "
            "cheap operations already: set gradient_checkpointing to none or full, or compile to false."
        )
    if model.neftune_alpha is not None and model.share_prompts is True:
        raise ValueError(
            f"model.neftune_alpha is {model.neftune_alpha} and model.share_prompts is true, but its noise is of each "
            "sequence alone, the prompt included: set share_prompts to auto or false, or leave neftune_alpha out."
        )
    if model.quantize != "none":
        _check_quantize(model)
    if model.adapter is not None and model.path == "tiny":
        raise ValueError(
            f"model.adapter is {model.adapter} but the tiny model has new weights, on which no adapter was trained: "
            "leave it out, or set model.path to the adapter's base."
        )
    if model.lora is not None:
        check_lora(model.lora, "model.lora")


def check_trust(config: TrainConfig) -> None:
    others = config.rewards.model if isinstance(config, RunConfig) else None
    if config.model.trust_remote_code and config.model.path == "tiny" and others is None:
        raise ValueError(
            "model.trust_remote_code is true but the tiny model brings no code: leave model.trust_remote_code out."
        )


def _check_padded(model: ModelConfig) -> None:
    if model.share_prompts is True:
        raise ValueError(
            "model.share_prompts is true but model.batch_layout is padded, where every sequence has its own "
            "prompt: set batch_layout to auto or flat, or share_prompts to auto or false."
        )
    if model.attention != "auto":
        raise ValueError(
            f"model.attention is {model.attention} but model.batch_layout is padded, where the model's own "
            "attention runs: set batch_layout to auto or flat, or attention to auto."
        )


def _check_quantize(model: ModelConfig) -> None:
    if model.lora is not None and model.adapter is not None:
        raise ValueError(
            f"model.quantize is {model.quantize}, into which model.adapter cannot be merged without loss: leave "
            "model.lora out to train that adapter further, or merge it into the original first (iwpo merge)."
        )
    if model.lora is None and model.adapter is None:
        raise ValueError(
            f"model.quantize is {model.quantize} but all weights are trained, and quantised weights cannot be: "
            "set model.lora, or quantize to none."
        )
    if model.path == "tiny":
        raise ValueError(
            f"model.quantize is {model.quantize} but the tiny model is made, not read, and is small as it is: "
            "set quantize to none, or model.path to a saved model."
        )
    if model.compile:
        raise ValueError(
            f"model.quantize is {model.quantize} and model.compile is true, but products with quantised weights do not "
            "compile in reasonable time: set compile to false, or quantize to none."
        )
    check_installed("bitsandbytes", f"model.quantize is {model.quantize}", extra="qlora")


def check_lora(lora: LoraConfig, name: str) -> None:
    if isinstance(lora.target_modules, str):
        try:
            re.compile(lora.target_modules)
        except re.error as error:
            raise ValueError(
                f"{name}.target_modules {lora.target_modules!r} is no regular expression ({error}): "
                "correct it, or give a list of names, or all-linear."
            ) from None
