"""What is saved of a model, and the hash by which its reference log-probs are found again."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from iwpo_fast.finite import not_finite
from iwpo_fast.models import four_bits
from iwpo_fast.world import full_tensor

Model = PreTrainedModel | PeftModel


def fingerprint(base: PreTrainedModel, *, with_adapter: bool = False) -> str:
    """Hash of configuration, weights, saved buffers and the code that a model brings, adapters apart unless asked."""
    digest = hashlib.sha256(_settings(base).encode())
    for name, tensor in (*base.named_parameters(), *saved_buffers(base).items()):
        if with_adapter or not of_adapter(name):
            name = name.replace(".base_layer", "").replace(".original_module", "")
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            for part in (full_tensor(tensor.detach()), *four_bits.scales(tensor).values()):
                digest.update(cast(Any, part.cpu().contiguous().flatten().view(torch.uint8).numpy()))
    digest.update(_own_code(base))
    return digest.hexdigest()


def saved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong to the model as its weights do, such as the bias of a router; others are made anew."""
    return {
        f"{prefix}.{name}": buffer
        for prefix, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in module._non_persistent_buffers_set
    }


def _own_code(model: PreTrainedModel) -> bytes:
    """The Python files beside a model that is not of transformers but brings its own; nothing for any other."""
    module = type(model).__module__
    if not module.startswith("transformers_modules."):
        return b""
    folder = Path(str(sys.modules[module].__file__)).parent
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))


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


def save(
    model: Model, folder: Path, state: dict[str, Tensor] | None, dtype: torch.dtype | None, ends: Sequence[int] = ()
) -> None:
    """Write model or the adapter in use, in `dtype` or, where that is None, in the type that they were trained in.

    The base of a `tiny` model with LoRA is nowhere on disk, so there the adapter is merged and the whole model saved.

    Args:
        ends: tokens at which generation is to stop, beside those at which it does; an adapter does not keep them.

    Raises:
        ValueError: a weight is not finite, or is not in `dtype`; nothing is written then.
    """
    if isinstance(model, PeftModel) and saves_adapter(model):
        if dtype not in (None, torch.float32):
            state = _cast(model, state or gathered(model, keep=True), dtype)
        _check_finite(model, state)
        in_use = cast(str, model.active_adapter)
        options: dict[str, Any] = {"save_embedding_layers": False, "selected_adapters": [in_use]}
        model.save_pretrained(str(folder), state_dict=state, **options)
        _without_subfolder(folder, in_use)
        return
    if isinstance(model, PeftModel):
        whole, state = cast(PreTrainedModel, cast(Any, _merged(model, state)).to(dtype or torch.float32)), None
    else:
        whole = model
        if dtype not in (None, model.dtype):
            state = _cast(model, state or gathered(model, keep=True), dtype)
    _check_finite(whole, state)
    stops = stop_tokens(whole)
    if not set(ends) <= set(stops):
        assert whole.generation_config is not None
        whole.generation_config.eos_token_id = list(dict.fromkeys([*stops, *ends]))
    whole.save_pretrained(folder, state_dict=state)
    _say_dtype(folder, dtype)


def _without_subfolder(folder: Path, adapter: str) -> None:
    """Move up what peft puts into a folder of its own for every adapter that has a name."""
    inner = folder / adapter
    for path in sorted(inner.iterdir()) if inner.is_dir() else ():
        path.replace(folder / path.name)
    if inner.is_dir():
        inner.rmdir()


def _check_finite(model: Model, state: Mapping[str, Tensor] | None) -> None:
    """Raise ValueError if what is about to be saved has a weight that is not finite; buffers may be infinite."""
    written = model.state_dict() if state is None else state
    buffers = saved_buffers(model).keys()
    bad = not_finite({name: t for name, t in written.items() if _is_saved(model, name) and name not in buffers})
    if bad:
        raise ValueError(
            f"the model is not saved, because {bad[0]} is not finite in the type that it would be saved in: lower "
            "optim.lr or optim.weight_decay, or set checkpoint.dtype to float32."
        )


def stop_tokens(model: Model) -> list[int]:
    """Token ids at which the model's generation stops by its configuration."""
    of_model = getattr(base_of(model).generation_config, "eos_token_id", None)
    return [] if of_model is None else list(of_model) if isinstance(of_model, list) else [of_model]


def base_of(model: Model) -> PreTrainedModel:
    return cast(Any, model).get_base_model() if isinstance(model, PeftModel) else model


def _cast(model: Model, state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors on the host in `dtype`, except those that the model reads in float32 whatever its type is."""
    base = base_of(model)
    kept = {name for names in (base._keep_in_fp32_modules, base._keep_in_fp32_modules_strict) for name in names or ()}
    by_id: dict[int, Tensor] = {}  # Tied weights stay one tensor, which is saved once.
    for name, tensor in state.items():
        if id(tensor) not in by_id:
            stays = not tensor.is_floating_point() or kept & set(name.split("."))
            by_id[id(tensor)] = tensor.to("cpu") if stays else tensor.to("cpu", dtype)
    return {name: by_id[id(tensor)] for name, tensor in state.items()}


def _say_dtype(folder: Path, dtype: torch.dtype | None) -> None:
    """Have config.json name the type of what was saved, for which `save_pretrained` takes that of the model."""
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    name = str(dtype).removeprefix("torch.")
    if dtype is None or settings.get("dtype") == name:
        return
    parts = [part for part in settings.values() if isinstance(part, dict) and "model_type" in part]
    for part in (settings, *parts):
        part["dtype"] = name
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def saves_adapter(model: Model) -> bool:
    """Whether the adapter alone is saved, because its base is on disk."""
    return isinstance(model, PeftModel) and bool(cast(Any, model).get_base_model().config.name_or_path)


def _is_saved(model: Model, name: str) -> bool:
    return of_adapter(name) or not saves_adapter(model)


def of_adapter(name: str) -> bool:
    """Whether a tensor of this name belongs to an adapter, and not to its base."""
    return "lora_" in name or ".modules_to_save." in name


def _merged(model: PeftModel, state: dict[str, Tensor] | None) -> PreTrainedModel:
    """A copy with the adapter in its weights."""
    return merge(copy.deepcopy(model) if state is None else _rebuilt(model, state))


def merge(model: PeftModel) -> PreTrainedModel:
    """The base with the adapter in its weights, which are those of `model` and change.

    A tied head with LoRA is untied, because the embedding has none, and so is one of which a copy was trained whole, or
    of whose embedding.
    """
    base: Any = cast(Any, model).get_base_model()
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    if isinstance(head, LoraLinear) and base.config.tie_word_embeddings:
        head.base_layer.weight = nn.Parameter(cast(Tensor, head.base_layer.weight).detach().clone())
        base.config.tie_word_embeddings = False
    if any(isinstance(each, ModulesToSaveWrapper) for each in (head, embedding)):
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
