"""Low-rank adapters on the language model."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import cast

import peft
import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from iwpo_fast.config import LoraConfig, ModelConfig
from iwpo_fast.models import four_bits
from iwpo_fast.models.head import decoder_of
from iwpo_fast.models.pretrained import Source, model_location, reason_of
from iwpo_fast.models.saved_files import check_saved
from iwpo_fast.models.trained import is_adapter, put_on, source_of, type_name


def with_lora(model: PreTrainedModel, config: LoraConfig, seed: int, types: int | None = None) -> peft.PeftModel:
    """The model with a new adapter; `all-linear` adapts the language model alone.

    Args:
        types: make so many adapters instead, which begin alike, one for each type of annotators.

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
        use_dora=config.dora,
        use_rslora=config.rslora,
        modules_to_save=config.modules_to_save or None,
    )
    first, *others = ["default"] if types is None else map(type_name, range(types))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            adapted = peft.get_peft_model(model, adapter, first)
        except ValueError as error:
            raise ValueError(
                f"model.lora does not fit {type(model).__name__}: {str(error).splitlines()[0].rstrip('.')}."
            ) from error
        for name in others:
            torch.manual_seed(seed)
            adapted.add_adapter(name, copy.deepcopy(adapter))
    _settle_saved(adapted, config.modules_to_save)
    return adapted


def with_adapter(model: PreTrainedModel, config: ModelConfig) -> peft.PeftModel:
    """The model with the adapter that it starts from, to be trained further.

    Raises:
        ValueError: there is no adapter, it is damaged or not LoRA, or it does not fit the model.
    """
    source = adapter_source(config)
    _settings_of(source)
    adapted = put_on(model, source, config.path, trainable=True)
    # It goes on from here with this base, wherever that was when the adapter was first trained.
    adapted.peft_config["default"].base_model_name_or_path = model.config.name_or_path
    _settle_saved(adapted, ())
    return adapted


def shaped_like(model: PreTrainedModel, config: ModelConfig) -> peft.PeftModel:
    """The model with an adapter of the shape of the one that it starts from."""
    settings = _settings_of(adapter_source(config))
    settings.inference_mode = False
    return cast(peft.PeftModel, peft.get_peft_model(model, settings))


def adapter_source(config: ModelConfig) -> Source:
    """Where the adapter that the model starts from is.

    Raises:
        ValueError: what is there is no adapter.
    """
    assert config.adapter is not None
    source = source_of(config.adapter, "model.adapter", trust_remote_code=config.trust_remote_code)
    if not is_adapter(source):
        raise ValueError(
            f"model.adapter {config.adapter} is no adapter: give the folder of one, or of its run, and a whole model "
            "as model.path."
        )
    return source


def _settings_of(source: Source) -> peft.LoraConfig:
    """The `adapter_config.json` of an adapter.

    Raises:
        ValueError: it is damaged, of another kind than LoRA, or trains what is not saved beside LoRA's matrices.
    """
    folder = model_location(source.path)
    check_saved(Path(folder), source.setting, weights=False)
    try:
        settings = peft.PeftConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"The adapter_config.json of {source.setting} {source.path} cannot be read ({reason_of(error)}): save or "
            "copy the adapter again."
        ) from error
    if not isinstance(settings, peft.LoraConfig):
        kind = getattr(settings.peft_type, "value", settings.peft_type)
        raise ValueError(f"{source.setting} {source.path} is an adapter of the kind {kind}: give one of LoRA.")
    beside = {"bias": settings.bias != "none", "trainable_token_indices": settings.trainable_token_indices is not None}
    if names := [name for name, is_set in beside.items() if is_set]:
        raise ValueError(
            f"{source.setting} {source.path} was trained with {names[0]} {getattr(settings, names[0])}, and only the "
            "matrices of LoRA and whole modules are trained further here: merge it into its base (iwpo merge), and "
            "give the result as model.path."
        )
    return settings


def _settle_saved(model: peft.PeftModel, names: Sequence[str]) -> None:
    """Have the modules that are trained whole in float32, as all that is trained.

    Raises:
        ValueError: there is no such module, or its weights are held in 4 bits.
    """
    found = {name: each for name, each in model.named_modules() if isinstance(each, ModulesToSaveWrapper)}
    for name in names:
        if not any(re.fullmatch(rf"(.*\.)?{re.escape(name)}", place) for place in found):
            raise ValueError(f"model.lora.modules_to_save names {name}, and the model has no such module: correct it.")
    for place, module in found.items():
        if any(four_bits.scales(parameter) for parameter in module.parameters()):
            raise ValueError(
                f"model.lora.modules_to_save names {place}, whose weights model.quantize holds in 4 bits, in which "
                "nothing is trained: leave one of the two out."
            )
        module.modules_to_save.float()


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
