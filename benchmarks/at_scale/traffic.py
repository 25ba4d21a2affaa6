"""Bytes that GPUs receive from one another, and the seconds that they take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.at_scale.llama import Llama

MACHINE = 8


@dataclass(frozen=True)
class Network:
    """Assumed rates, none of them measured here.

    Attributes:
        nvlink: bytes/s that each GPU of a machine receives from the others of it.
        card: bytes/s that each GPU's own network card receives from other machines.
        hop: seconds that a message takes from one GPU to the next, however short it is.
    """

    nvlink: float = 300e9
    card: float = 50e9
    hop: float = 4e-6


def received(model: Llama, devices: int, lora: bool) -> float:
    """Bytes that each device receives for one micro-batch: weights for both passes, gradients."""
    gathered = 2 * model.parameters + 2 * (model.parameters - model.root)
    return (gathered + 4 * model.trained(lora)) * (devices - 1) / devices


def received_between_copies(model: Llama, copies: int, lora: bool) -> float:
    """Bytes that each device receives once a step where every machine holds a copy: sums of its own gradients."""
    return 2 * 4 * model.trained(lora) / MACHINE * (copies - 1) / copies


def micro_batch_seconds(model: Llama, devices: int, lora: bool, network: Network) -> float:
    """Of all gathers and sums of a micro-batch among `devices` that hold the model together, in rings.

    Every machine receives what it has not got once, over the cards of all its GPUs.
    """
    machines = math.ceil(devices / MACHINE)
    all_bytes = received(model, devices, lora) * devices / (devices - 1)
    inside = received(model, devices, lora) / network.nvlink
    between = all_bytes * (machines - 1) / machines / (MACHINE * network.card)
    rings = 3 * model.layers + 2  # a layer is gathered twice and its gradients summed; the rest once each
    return max(inside, between) + rings * (devices - 1) * network.hop


def copies_seconds(model: Llama, copies: int, lora: bool, network: Network) -> float:
    """Of the sums between machines that hold a copy each, once a step."""
    rings = model.layers + 1
    return received_between_copies(model, copies, lora) / network.card + rings * 2 * (copies - 1) * network.hop
