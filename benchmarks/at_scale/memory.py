"""Bytes on each GPU; assumptions are those of `docs/distributed.md`."""

from __future__ import annotations

from benchmarks.at_scale.llama import Llama


def state(model: Llama, devices: int, lora: bool) -> float:
    """Weights, gradients and AdamW moments on each of so many devices."""
    return (16 * model.trained(lora) + (2 * model.parameters if lora else 0)) / devices


def passing(model: Llama, lora: bool) -> float:
    """What comes and goes: embedding and head, two layers, and the largest gradients on their way."""
    gathered = 2 * (model.root + 2 * model.layer)
    return gathered if lora else gathered + 6 * max(model.root, model.layer)


def activations(model: Llama) -> float:
    """With gradient checkpointing: the float32 input of each layer, and what one layer saves."""
    return model.tokens * (4 * model.layers * model.hidden + 2 * (7 * model.hidden + 3 * model.inner))


def total(model: Llama, devices: int, lora: bool) -> float:
    """All of it, where so many devices hold the model together."""
    return state(model, devices, lora) + passing(model, lora) + activations(model)
