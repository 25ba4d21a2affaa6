"""From configuration to tokenizer and policy: the built-in tiny model, a local folder, or a hub id."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from iwpo_fast.config import ModelConfig
from iwpo_fast.config_checks import check_model_settings
from iwpo_fast.models import four_bits
from iwpo_fast.models.adapters import adapter_source, freeze_outside, with_adapter, with_lora
from iwpo_fast.models.attention import CannotRunFlat, check_backend, take_first, why_not_flat
from iwpo_fast.models.layers import checkpoint_layer, compile_layer, decoder_layers
from iwpo_fast.models.noise import EmbeddingNoise
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.pretrained import Source, model_location, read_pretrained, reason_of
from iwpo_fast.models.probe import largest_error, tolerance
from iwpo_fast.models.saving import merge
from iwpo_fast.models.sharding import shard
from iwpo_fast.models.sound import check_finite, check_token_ids
from iwpo_fast.models.tiny import tiny_model, train_tokenizer
from iwpo_fast.world import World


def load_tokenizer(config: ModelConfig, texts: Iterable[str]) -> Tokenizer:
    """The model's tokenizer, with a padding token; for `tiny`, one trained on `texts`.

    Raises:
        ValueError: there is no tokenizer at the path, or it has no end-of-sequence token.
    """
    if config.path == "tiny":
        return train_tokenizer(texts, config.tiny.vocab_size)
    tokenizer = read_pretrained(AutoTokenizer, Source.of(config), "tokenizer")
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"The tokenizer of {config.path} has no end-of-sequence token: set eos_token in its tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_on_device(config: ModelConfig, device: torch.device) -> None:
    """Raise ValueError for what can be seen not to run on `device` before the model is read.

    It is beside what reads the model because `config_checks` knows no device.
    """
    if config.offload_activations and device.type == "cpu":
        raise ValueError(
            "model.offload_activations is true but the model runs on a CPU, in host memory already: leave it out."
        )
    name, usual = ("CXX", "g++") if device.type == "cpu" else ("CC", "gcc")  # for kernels, and for what launches them
    if config.compile and shutil.which(compiler := os.environ.get(name, usual)) is None:
        raise ValueError(
            f"model.compile is true but there is no compiler called {compiler}: install one, name another in the "
            f"environment variable {name}, or leave compile out."
        )
    if config.adapter is not None:
        adapter_source(config)
    if config.attention != "auto":
        check_backend(config.attention, device, _compute_dtype(config, device))


def load_policy(
    config: ModelConfig,
    tokenizer: Tokenizer,
    world: World,
    *,
    seed: int,
    max_length: int | None = None,
    mesh: DeviceMesh | None = None,
    types: int | None = None,
) -> Policy:
    """The policy, on the world's device and self-tested.

    What is trained is float32. The frozen base of a LoRA policy is bfloat16 where a GPU computes in bfloat16, and its
    linear layers have 4 bits where `config.quantize` says so.
    Dropout of the base model is off, so that policy and reference agree; the adapter's own is as configured.

    Args:
        seed: seed of random weights, of `tiny` and of new adapters.
        max_length: longest sequence to come, in tokens; None where it is not known.
        mesh: what `shard_mesh` returns; with one, all processes share the model and call this. None gives this process
            the whole model.
        types: how many adapters to make, one for each type of annotators; None makes one where `config.lora` asks.

    Raises:
        ValueError: the model cannot be read, or cannot be trained as asked.
    """
    check_model_settings(config)
    check_on_device(config, world.device)
    if mesh is None:
        policy = _new_policy(config, tokenizer, seed, world.device, max_length, types).to(world.device)
    else:
        with world.one_at_a_time():
            policy = _new_policy(config, tokenizer, seed, world.device, max_length)
            shard(policy, mesh)
    policy.context = world.context
    _settle_layout(policy, config, max_length)
    for layer in decoder_layers(policy.head.decoder):
        if config.compile:
            compile_layer(layer)
            policy.is_compiled = True
        if config.gradient_checkpointing != "none":
            checkpoint_layer(layer, config.gradient_checkpointing, offload=config.offload_activations)
    return policy.train()


def _new_policy(
    config: ModelConfig,
    tokenizer: Tokenizer,
    seed: int,
    device: torch.device,
    max_length: int | None,
    types: int | None = None,
) -> Policy:
    """The policy, to be moved to `device`: it is on the host, except for weights that were quantised there."""
    dtype = _compute_dtype(config, device)
    frozen_in_half = (config.lora or config.adapter) is not None and device.type == "cuda"
    options: dict[str, Any] = {"dtype": dtype if frozen_in_half else torch.float32}
    if config.quantize == "nf4":
        options |= four_bits.loading_options(dtype, device)
    if config.path == "tiny":
        model, stored = cast(Any, tiny_model(config.tiny, tokenizer, seed)).to(options["dtype"]), torch.float32
    else:
        model, stored = _load_model(config, options, max_length)
        check_token_ids(tokenizer, model, config.path)
        check_finite(model, config.path)
    if config.adapter is not None and config.lora is not None:
        model = merge(with_adapter(model.float(), config)).to(options["dtype"])
        model.config.name_or_path = ""  # it is nowhere on disk, so the whole of it is saved
    freeze_outside(model)
    policy = Policy(_adapted(model, config, seed, types), dtype, max_length)
    if types is not None:
        policy.types = types
        policy.use(0)
    if config.neftune_alpha is not None:
        policy.noise = EmbeddingNoise(policy.causal_lm.get_input_embeddings(), config.neftune_alpha)
    policy.stored_dtype = stored
    policy.continues_adapter = config.adapter is not None and config.lora is None
    return policy


def _adapted(model: PreTrainedModel, config: ModelConfig, seed: int, types: int | None) -> PreTrainedModel | PeftModel:
    """The model with the adapter that is trained, or those of all types, if any."""
    if config.lora is not None:
        return with_lora(model, config.lora, seed, types)
    return model if config.adapter is None else with_adapter(model, config)


def _compute_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    if config.precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[config.precision]
    half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if half else torch.float32


def _load_model(
    config: ModelConfig, options: dict[str, Any], max_length: int | None
) -> tuple[PreTrainedModel, torch.dtype]:
    """The model, and the type in which its files say that they hold it."""
    location = model_location(config.path)
    if (Path(location) / "adapter_config.json").exists():
        raise ValueError(
            f"model.path {config.path} is an adapter: give its base as model.path and this as model.adapter, or merge "
            "the two (iwpo merge)."
        )
    settings = read_pretrained(AutoConfig, Source.of(config), "model")
    _check_settings(settings, config.path)
    _turn_off_noise(settings)
    stored = settings.dtype or settings.get_text_config().dtype or torch.float32
    model = _read_weights(config, settings, options)
    four_bits.keep_as_quantised(model)
    _check_positions(model, config.path, max_length)
    return model, stored


def _read_weights(config: ModelConfig, settings: PreTrainedConfig, options: dict[str, Any]) -> PreTrainedModel:
    try:
        loaded = read_pretrained(
            AutoModelForCausalLM,
            Source.of(config),
            "model",
            weights=True,
            config=settings,
            output_loading_info=True,
            **options,
        )
    except ValueError as refusal:
        raise _of_weights(refusal, config.path, type(settings).__name__) from refusal.__cause__
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{config.path} lacks {len(missing)} weights of {type(model).__name__}, {missing[0]} among them: "
            "give a complete causal language model."
        )
    return model


def _of_weights(refusal: ValueError, path: str, settings: str) -> ValueError:
    """What the refusal to read a model means where its configuration could be read."""
    error = refusal.__cause__
    if isinstance(error, ValueError) and "Unrecognized configuration class" in str(error):
        return ValueError(
            f"model.path {path} holds a {settings}, which is no causal language model to transformers: give a "
            "decoder-only language model."
        )
    if isinstance(error, RuntimeError | SafetensorError):
        return ValueError(
            f"The weights in {path} are damaged or do not fit its config.json ({reason_of(error)}): save or download "
            "it again."
        )
    return refusal


def _check_settings(settings: PreTrainedConfig, path: str) -> None:
    if settings.is_encoder_decoder:
        raise ValueError(f"model.path {path} is an encoder-decoder model: give a decoder-only language model.")
    if getattr(settings, "quantization_config", None) is not None:
        raise ValueError(
            f"model.path {path} is quantised already: give the original, with model.quantize if it is to be small."
        )


def _check_positions(model: PreTrainedModel, path: str, max_length: int | None) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if max_length is None or limit is None or max_length <= limit:
        return
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not model.get_input_embeddings()]
    if any(limit <= table.num_embeddings <= limit + 2 for table in tables):  # OPT keeps two entries more
        raise ValueError(f"data.max_length is {max_length} but {path} has learned only {limit} positions: lower it.")


def _turn_off_noise(settings: PreTrainedConfig) -> None:
    """Set every dropout rate, and the jitter of mixture-of-experts routers, to zero."""
    text = settings.get_text_config()
    for name, value in text.to_dict().items():
        if isinstance(value, float) and any(part in name for part in ("dropout", "pdrop", "layerdrop", "jitter")):
            setattr(text, name, 0.0)


def _settle_layout(policy: Policy, config: ModelConfig, max_length: int | None) -> None:
    """Choose the layout, and check with a few tokens that it gives the model's own log-probs."""
    if policy.context is not None and policy.rope.limit is not None:
        raise ValueError(
            f"context_parallel is {policy.context.size}, and above {policy.rope.limit} tokens the rotary embedding of "
            f"{type(policy.causal_lm).__name__} depends on the length of a sequence, of which each process has a part: "
            f"set context_parallel to 1, or data.max_length to {policy.rope.limit} or less."
        )
    if config.batch_layout == "padded":
        obstacle, reason = None, "asked for"
    else:
        obstacle = _obstacle_to_flat(policy, config, max_length)
        if obstacle is None:
            return
        reason = f"cannot run flat, {obstacle}"
    name = type(policy.causal_lm).__name__
    if policy.context is not None:
        raise ValueError(
            f"context_parallel is {policy.context.size} but {name} {reason}, and padded batches are not split: set "
            "context_parallel to 1, or give another model."
        )
    policy.run_padded(reason)
    if not largest_error(policy, max_length) <= tolerance(policy):
        chosen = getattr(policy.causal_lm.config.get_text_config(), "index_topk", None)
        if chosen is not None and (max_length is None or max_length > chosen):
            raise ValueError(
                f"{name} lets an indexer choose {chosen} tokens for each, and beside padding it chooses others, so "
                f"that policy and reference would differ: lower data.max_length to {chosen} or less, or give another "
                "model."
            )
        raise ValueError(
            f"{name} computes its logits in a way that is not known here: choose a model whose logits are "
            "a linear layer of the last hidden state, with at most a bias, a scale and a softcap."
        )
    if config.share_prompts is True:
        raise ValueError(f"model.share_prompts is true but {name} cannot share them, {obstacle}: set auto or false.")
    if config.attention != "auto":
        raise ValueError(f"model.attention is {config.attention} but {name} cannot run with it, {obstacle}: set auto.")
    if config.batch_layout == "flat":
        raise ValueError(f"model.batch_layout is flat but {name} cannot run flat, {obstacle}: set auto or padded.")


def _obstacle_to_flat(policy: Policy, config: ModelConfig, max_length: int | None) -> str | None:
    """Why the policy cannot run flat, with shared prompts if they are asked for; or None, and then it runs so."""
    obstacle = why_not_flat(policy.causal_lm)
    if obstacle is not None:
        return obstacle
    for share, reason in _sharing(config, policy.device, policy.rope.limit):

        def run(backend: str, why: str, share: bool = share, reason: str = reason) -> str | None:
            policy.run_flat(reason, backend, share_prompts=share, attention_reason=why)
            return _difference(policy, max_length)

        obstacle = take_first(config.attention, policy.device, policy.compute_dtype, run)
        if obstacle is None:
            return None
    return obstacle


def _difference(policy: Policy, max_length: int | None) -> str | None:
    """Why the layout that the policy now has will not do, or None."""
    try:
        same = largest_error(policy, max_length) <= tolerance(policy)
    except CannotRunFlat as refusal:
        return str(refusal)
    return None if same else "its log-probs would differ from those of separate sequences"


def _sharing(config: ModelConfig, device: torch.device, limit: int | None = None) -> list[tuple[bool, str]]:
    """Whether prompts are shared, and why; the first that gives the model's log-probs is taken.

    Args:
        limit: `RopeBySequence.limit`.
    """
    if limit is not None and config.share_prompts is not False:
        reason = f"above {limit} tokens its rotary embedding depends on the length of a sequence"
        if config.share_prompts is True:
            raise ValueError(
                f"model.share_prompts is true but {reason}, and two completions of one prompt have lengths of their "
                f"own: set it to auto or false, or data.max_length to {limit} or less."
            )
        return [(False, reason)]
    if config.share_prompts != "auto":
        return [(config.share_prompts, "asked for")]
    if config.neftune_alpha is not None:
        return [(False, "the noise on embeddings is of each sequence alone")]
    if device.type == "cpu":
        return [(True, "the model can"), (False, "with shared prompts its log-probs would differ")]
    return [(False, f"on {device.type} prompts are shared only where model.share_prompts is true")]
