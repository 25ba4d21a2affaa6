"""The adapter of every fold that has been tuned, in a folder of its own in peft's form."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from iwpo_fast.checksums import Damaged
from iwpo_fast.files import load_tensors, save_tensors, written_aside
from iwpo_fast.models import Policy
from iwpo_fast.models.saved_files import keep_hashes

WEIGHTS = "adapter_model.safetensors"


def adapter_of(folder: Path, fold: int) -> Path:
    """Where the adapter of a fold is in a folder that has those of all, such as a reward model's."""
    return folder / "adapters" / f"fold-{fold}"


def save_adapter(policy: Policy, folder: Path) -> None:
    """Write the policy's adapter alone, and the hashes of its files; not where its base is, which may be moved."""
    settings = copy.copy(cast(PeftModel, policy.model).peft_config["default"])
    settings.base_model_name_or_path, settings.inference_mode = None, True
    for name in ("target_modules", "exclude_modules"):
        names = getattr(settings, name)
        setattr(settings, name, sorted(names) if isinstance(names, set) else names)  # a set has another order each time
    with written_aside(folder) as aside:
        settings.save_pretrained(str(aside))
        save_tensors(aside / WEIGHTS, _weights(policy))
        keep_hashes(aside)


def put_adapter(policy: Policy, folder: Path) -> None:
    """Give the policy's adapter the weights of the one in a folder.

    Raises:
        Damaged: they are not as they were saved, or of an adapter of another shape.
        FileNotFoundError: there is none.
    """
    found = {name: torch.from_numpy(values) for name, values in load_tensors(folder / WEIGHTS).items()}
    if _shapes(found) != _shapes(_weights(policy)):
        raise Damaged(folder / WEIGHTS)
    set_peft_model_state_dict(policy.model, found)


def _weights(policy: Policy) -> dict[str, Tensor]:
    return cast("dict[str, Tensor]", get_peft_model_state_dict(policy.model, save_embedding_layers=False))


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}
