"""Seconds of an optimiser step, from operations and traffic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.at_scale.llama import Llama
from benchmarks.at_scale.traffic import MACHINE, Network, copies_seconds, micro_batch_seconds

PARTS = ("layers", "attention", "head")


@dataclass(frozen=True)
class Step:
    """Pairs of one optimiser step, all of the mean lengths that `benchmarks.training.lengths` has for UltraFeedback."""

    pairs: int = 512
    prompt: int = 150
    completion: int = 330

    @property
    def tokens(self) -> int:
        """Both sequences of each pair."""
        return 2 * self.pairs * (self.prompt + self.completion)

    @property
    def supervised(self) -> int:
        return 2 * self.pairs * self.completion


@dataclass(frozen=True)
class Device:
    """Rates of one H200.

    Attributes:
        products: FLOP/s of a large bare product in bf16, measured.
        utilisation: share of it that a training step reaches, assumed.
        memory: bytes/s of a copy, measured.
        room: bytes of memory that may be planned with, four fifths.
    """

    products: float = 790e12
    utilisation: float = 0.4
    memory: float = 4.3e12
    room: float = 0.8 * 141e9


def flops(model: Llama, step: Step, lora: bool) -> dict[str, float]:
    """Operations of a step by part, recomputation of the layers included, products of the adapters not.

    Two per parameter and token in each of the passes: forward, forward again, backward to the inputs, and to the
    weights where they are trained. Attention is causal. The head works on supervised tokens, and is not run again.
    """
    passes = 3 if lora else 4
    length = step.prompt + step.completion
    causal = 2 * step.pairs * model.layers * model.hidden * 2 * length**2
    return {
        "layers": 2 * passes * model.layers * model.matrices * step.tokens,
        "attention": 4 * causal,  # its backward pass is two, whatever is trained
        "head": 2 * (passes - 1) * model.vocabulary * model.hidden * step.supervised,
    }


def bounds(
    model: Llama, devices: int, lora: bool, *, copies: int, step: Step, device: Device, network: Network
) -> tuple[float, float]:
    """Seconds of a step where traffic hides behind products, or products behind it, and where neither does.

    Args:
        devices: all GPUs.
        copies: machines that hold a copy each, or 1 where all GPUs hold one together.
    """
    assert copies == 1 or copies * MACHINE == devices, "a copy takes one machine, or all"
    group = devices // copies
    computing = sum(flops(model, step, lora).values()) / (devices * device.products * device.utilisation)
    micro_batches = math.ceil(step.tokens / devices / model.tokens)
    travelling = micro_batches * micro_batch_seconds(model, group, lora, network)
    if copies > 1:
        travelling += copies_seconds(model, copies, lora, network)
    # AdamW reads four and writes three float32 numbers of each parameter; clipping reads one twice and writes it.
    updating = 40 * model.trained(lora) / group / device.memory
    return max(computing, travelling) + updating, computing + travelling + updating
