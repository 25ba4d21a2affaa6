"""Settings that came later: records leave them out where they have their defaults, so that runs of before go on."""

from __future__ import annotations

from math import log
from typing import Any

OF_LORA = {"dora": False, "rslora": False, "modules_to_save": []}

LATER: dict[str, Any] = {
    "checkpoint.dtype": "base",
    "checkpoint.best": None,
    "checkpoint.patience": None,
    "reference_sync": None,
    "objective.reward_head_lr": None,
    "sampled_kl": None,
    "types": None,
    "model.adapter": None,
    "model.reference": None,
    "model.neftune_alpha": None,
    "rewards.preference_dimension": 4,
    "rewards.categories": {"count": 6, "prior": 1.0, "smoothing": 0.1, "loss": "transport", "cost_exponent": 1.0},
    "rewards.pessimism": None,
    "rewards.family": None,
    **{f"model.lora.{name}": default for name, default in OF_LORA.items()},
    "weights.forward_kl": "pairs",
    "weights.experimental.madpo_factor": 2.0,
    "weights.experimental.madpo_turn": log(0.999 / 0.001),
    "weights.experimental.madpo_sharpness": 1.0,
    "weights.experimental.selected_share": 0.5,
    **{f"rewards.tuning.lora.{name}": default for name, default in OF_LORA.items()},
    "rewards.tuning.language_modelling": 0.0,
}
"""Their defaults, by dotted names; those of the data stand in `LATER_SETTINGS`."""


def without_later(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings without those of `LATER` that have their defaults; what was given stays as it was."""
    return _without(settings, "")


def _without(settings: dict[str, Any], prefix: str) -> dict[str, Any]:
    kept = {name: v for name, v in settings.items() if f"{prefix}{name}" not in LATER or LATER[f"{prefix}{name}"] != v}
    return {name: _without(v, f"{prefix}{name}.") if isinstance(v, dict) else v for name, v in kept.items()}
