"""A trained model by the name that people give it: the folder of a run, of a model or of an adapter, or a hub id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from iwpo_fast.files import load_record
from iwpo_fast.models.pretrained import Source, model_in, model_location, read_pretrained, reason_of
from iwpo_fast.models.saved_files import check_saved
from iwpo_fast.paths import expanded

ADAPTER = "adapter_config.json"
RUN_FILES = ("run.json", "manifest.json")


def type_name(number: int) -> str:
    """What the adapter of a type of annotators is called, counted from 0, and its folder."""
    return f"type-{number}"


def source_of(path: str, setting: str, *, trust_remote_code: bool) -> Source:
    """Where the model itself is, if `path` is the folder of a run; `path` for any other.

    Raises:
        ValueError: the run has not finished, or the model has random weights.
    """
    if path == "tiny":
        raise ValueError(f"{setting} is tiny, which has random weights: give the folder of a run or of a model.")
    folder = expanded(path)
    found = model_in(folder)
    if found is None and (several := _types_in(folder)) is not None:
        raise ValueError(
            f"{setting} {path} holds the policies of several types of annotators: name the folder of one of them, such "
            f"as {several}."
        )
    if found is None and any((folder / name).exists() for name in RUN_FILES):
        raise ValueError(f"{setting} {path} is a run without a model yet: let it finish, which its command does again.")
    return Source(path if found is None else str(found), setting, trust_remote_code=trust_remote_code)


def _types_in(folder: Path) -> Path | None:
    """The folder of the first type of annotators, where a training on types left it."""
    places = (folder / inside / type_name(0) for inside in ("", "mixture", "model"))
    return next((place for place in places if model_in(place) is not None), None)


def is_adapter(source: Source) -> bool:
    """Whether it is the folder of an adapter, whose base is elsewhere."""
    return (expanded(source.path) / ADAPTER).exists()


def base_of(source: Source) -> Source:
    """The model that it was before training: an adapter's base, or the model that its run began with.

    Raises:
        ValueError: neither is known, or it had random weights.
    """
    folder = expanded(source.path)
    path = _entry(folder / ADAPTER, "base_model_name_or_path") if is_adapter(source) else _settings(folder).get("path")
    if not isinstance(path, str):
        raise ValueError(f"{source.setting} {source.path} does not say what it was before training: name that model.")
    if path == "tiny":
        raise ValueError(
            f"{source.setting} {source.path} was the tiny model before training, whose random weights were not saved: "
            "name another model."
        )
    return source._replace(path=path)


def was_in_four_bits(source: Source) -> bool:
    """Whether the run beside an adapter held its base in 4 bits."""
    return _settings(expanded(source.path)).get("quantize", "none") != "none"


def stored_dtype(source: Source) -> torch.dtype:
    """The type in which the files of a whole model say that they hold it.

    Raises:
        ValueError: it cannot be read, or is quantised already.
    """
    settings = read_pretrained(AutoConfig, source, "model")
    if getattr(settings, "quantization_config", None) is not None:
        raise ValueError(f"{source.setting} {source.path} is quantised: give the original, from which it was made.")
    dtype: torch.dtype = settings.dtype or settings.get_text_config().dtype or torch.float32
    return dtype


def read_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved with a model or an adapter."""
    tokenizer: PreTrainedTokenizerBase = read_pretrained(AutoTokenizer, source, "tokenizer")
    return tokenizer


def read_model(source: Source, dtype: torch.dtype) -> PreTrainedModel:
    """A whole model for evaluation, on the host.

    Raises:
        ValueError: it cannot be read.
    """
    model = read_pretrained(AutoModelForCausalLM, source, "model", weights=True, dtype=dtype)
    return cast(PreTrainedModel, model.eval())


def read_adapter(source: Source, base: Source, dtype: torch.dtype) -> PeftModel:
    """An adapter on its base, for evaluation, on the host.

    Raises:
        ValueError: either cannot be read, or they do not fit.
    """
    check_saved(Path(model_location(source.path)), source.setting, weights=True)
    return cast(PeftModel, put_on(read_model(base, dtype), source, base.path).eval())


def put_on(
    model: PreTrainedModel | PeftModel, adapter: Source, base: str, *, trainable: bool = False, name: str = "default"
) -> PeftModel:
    """The adapter on a model that was read from `base`, perhaps beside others; what is trained of it is float32.

    Args:
        name: what it is called among the adapters of the model.

    Raises:
        ValueError: the adapter is damaged, or does not fit.
    """
    folder = Path(model_location(adapter.path))
    check_saved(folder, adapter.setting, weights=True)
    try:
        if isinstance(model, PeftModel):
            adapted = model
            adapted.load_adapter(str(folder), name, is_trainable=trainable)
        else:
            adapted = PeftModel.from_pretrained(model, str(folder), name, is_trainable=trainable)
        unread = _names(folder) ^ get_peft_model_state_dict(adapted, adapter_name=name).keys()
    except (ValueError, RuntimeError, OSError, SafetensorError, TypeError) as error:
        raise _does_not_fit(adapter, base, reason_of(error)) from error
    if unread:
        raise _does_not_fit(adapter, base, f"{min(unread)} is in one of them alone")
    return cast(PeftModel, adapted)


def check_began_with_a_model(source: Source) -> None:
    """Raise ValueError if the run that left a model began from an adapter, so that no folder is what it was before."""
    adapter = _settings(expanded(source.path)).get("adapter")
    if adapter is not None:
        raise ValueError(
            f"{source.setting} {source.path} began from the adapter {adapter}: merge that one into its base (iwpo "
            "merge), and name the result."
        )


def _does_not_fit(source: Source, base: str, reason: str) -> ValueError:
    return ValueError(
        f"the adapter {source.path} does not fit its base {base} ({reason}): give the base that it was trained on."
    )


def _names(folder: Path) -> set[str]:
    """Names of an adapter's tensors in its files."""
    found: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            found |= set(file.keys())
    return found


def _settings(folder: Path) -> dict[str, Any]:
    """Settings of the model of the run that left it in `folder`; empty where there is no run."""
    record = folder.resolve().parent / "run.json"
    settings = load_record(record).get("settings") if record.exists() else None
    if not isinstance(settings, dict):
        return {}
    return {name.removeprefix("model."): value for name, value in settings.items() if name.startswith("model.")}


def _entry(path: Path, name: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get(name)
    except (OSError, ValueError, AttributeError):
        return None
