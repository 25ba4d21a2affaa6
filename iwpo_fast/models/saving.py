"""What is saved of a model, and the hash by which its reference log-probs are found again."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers import PreTrainedModel

from iwpo_fast.models import four_bits
from iwpo_fast.world import full_tensor

Model = PreTrainedModel | PeftModel


def fingerprint(base: PreTrainedModel) -> str:
    """Hash of configuration and weights, adapters apart."""
    digest = hashlib.sha256(_settings(base).encode())
    for name, parameter in base.named_parameters():
        if "lora_" not in name:
            digest.update(f"{name.replace('.base_layer', '')} {parameter.dtype} {tuple(parameter.shape)}".encode())
            for tensor in (full_tensor(parameter.detach()), *four_bits.scales(parameter).values()):
                digest.update(cast(Any, tensor.cpu().contiguous().view(torch.uint8).numpy()))
    return digest.hexdigest()


def gathered(model: Model, keep: bool) -> dict[str, Tensor]:
    """What `save` writes of a sharded model, on the host. All ranks must call it."""
    wanted = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if _is_saved(model, name)}
    by_id: dict[int, Tensor] = {}  # Tied weights stay one tensor, which is saved once.
    state = {}
    for name, tensor in wanted.items():
        if id(tensor) not in by_id:
            part = full_tensor(tensor.detach())
            by_id[id(tensor)] = part.cpu() if keep else part.new_empty(0)
        state[name] = by_id[id(tensor)]
    return state if keep else {}


def save(model: Model, folder: Path, state: dict[str, Tensor] | None, ends: Sequence[int] = ()) -> None:
    """Write model or adapter as they were trained, in float32: what is loaded is what was measured.

    The base of a `tiny` model with LoRA is nowhere on disk, so there the adapter is merged and the whole model saved.

    Args:
        ends: tokens at which generation is to stop, beside those at which it does; an adapter does not keep them.
    """
    if isinstance(model, PeftModel) and saves_adapter(model):
        model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=state)
        return
    whole, state = (_merged(model, state), None) if isinstance(model, PeftModel) else (model, state)
    stops = stop_tokens(whole)
    if not set(ends) <= set(stops):
        assert whole.generation_config is not None
        whole.generation_config.eos_token_id = list(dict.fromkeys([*stops, *ends]))
    whole.save_pretrained(folder, state_dict=state)


def stop_tokens(model: Model) -> list[int]:
    """Token ids at which the model's generation stops by its configuration."""
    of_model = getattr(base_of(model).generation_config, "eos_token_id", None)
    return [] if of_model is None else list(of_model) if isinstance(of_model, list) else [of_model]


def base_of(model: Model) -> PreTrainedModel:
    return cast(Any, model).get_base_model() if isinstance(model, PeftModel) else model


def saves_adapter(model: Model) -> bool:
    return isinstance(model, PeftModel) and bool(cast(Any, model).get_base_model().config.name_or_path)


def _is_saved(model: Model, name: str) -> bool:
    return "lora_" in name or not saves_adapter(model)


def _merged(model: PeftModel, state: dict[str, Tensor] | None) -> PreTrainedModel:
    """A copy with the adapter in its weights; a tied head with LoRA is untied, because the embedding has none."""
    model = copy.deepcopy(model) if state is None else _rebuilt(model, state)
    base: Any = cast(Any, model).get_base_model()
    head = base.get_output_embeddings()
    if isinstance(head, LoraLinear) and base.config.tie_word_embeddings:
        head.base_layer.weight = nn.Parameter(cast(Tensor, head.base_layer.weight).detach().clone())
        base.config.tie_word_embeddings = False
    return cast(Any, model).merge_and_unload()


def _rebuilt(model: PeftModel, state: dict[str, Tensor]) -> PeftModel:
    base = cast(Any, model).get_base_model()
    # Sharding replaces the classes of submodules, but not that of the model itself.
    copied = get_peft_model(type(base)(base.config), model.peft_config["default"])
    copied.load_state_dict(state)
    return cast(PeftModel, copied)


def _settings(model: PreTrainedModel) -> str:
    """The configuration without what does not change log-probs."""
    settings = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "dtype", "use_cache"):
        settings.pop(name, None)
    return json.dumps(settings, sort_keys=True, default=str)
