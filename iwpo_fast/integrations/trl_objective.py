"""TRL's settings in the words of this library."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from iwpo_fast.config import ObjectiveConfig

DIVERGENCES: dict[str, Literal["reverse_kl", "forward_kl", "js", "alpha"]] = {
    "reverse_kl": "reverse_kl",
    "forward_kl": "forward_kl",
    "js_divergence": "js",
    "alpha_divergence": "alpha",
}
EPSILON = ("robust", "exo_pair")
"""Losses of TRL that read its `label_smoothing`, as the `epsilon` inside of them; `aot` reads it too."""


def smooths(names: Iterable[str]) -> bool:
    """Whether one of these losses of TRL reads `label_smoothing` as the probability of a flipped label."""
    return not set(EPSILON).isdisjoint(names)


def losses_of(config: Any) -> dict[str, float]:
    """The losses of a `trl.DPOConfig` with their weights, except those that weigh nothing.

    Raises:
        ValueError: it has no loss, more or fewer weights than losses, a weight that is negative or not finite, or none
            above 0.
    """
    losses = list(config.loss_type)
    weights = config.loss_weights or [1.0] * len(losses)
    if not losses or len(weights) != len(losses):
        raise ValueError(
            f"loss_type has {len(losses)} losses and loss_weights {len(weights)} numbers: give one loss or more, and "
            "as many weights."
        )
    for name, weight in zip(losses, weights, strict=True):
        if not 0 <= weight < math.inf:
            raise ValueError(
                f"loss_weights has {weight} for {name}, which is no weight of a loss that is to fall: give a positive "
                "number, or 0, which leaves it out."
            )
    found: dict[str, float] = {}
    for name, weight in zip(losses, weights, strict=True):
        if weight:
            found[name] = found.get(name, 0.0) + weight  # TRL adds up a loss that is there twice
    if not found:
        raise ValueError("loss_weights has nothing but 0, which leaves no loss: give one of them a positive number.")
    return found


def objective_of(config: Any) -> ObjectiveConfig:
    """The objective that a `trl.DPOConfig` describes.

    Raises:
        ValueError: as of `losses_of`, or it has a label smoothing that TRL's loss ignores, or that this library's has
            not.
    """
    weights = losses_of(config)
    names = list(weights)
    params: dict[str, float | str] = {}
    for name in names:
        before = f"{name}." if len(names) > 1 else ""
        if name in EPSILON:
            params[f"{before}epsilon"] = config.label_smoothing
        if name == "discopop":
            params[f"{before}tau"] = config.discopop_tau
    if config.label_smoothing and not smooths(names):
        raise ValueError(
            f"label_smoothing is {config.label_smoothing}, which TRL's {' and '.join(names)} does not read as the "
            "probability of a flipped label: pass objective=ObjectiveConfig(label_smoothing=...), or a column "
            "label_smoothing, and leave it out of the DPOConfig."
        )
    divergence = DIVERGENCES[str(getattr(config.f_divergence_type, "value", config.f_divergence_type))]
    return ObjectiveConfig(
        name=weights if len(names) > 1 or weights[names[0]] != 1 else names[0],
        beta=None if names == ["sft"] else config.beta,
        params=params,
        divergence=divergence,
        divergence_alpha=config.f_alpha_divergence_coef if divergence == "alpha" else None,
    )
