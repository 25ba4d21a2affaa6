"""Floating-point operations that a training step cannot do without, and those a device could do."""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks.harness import synchronise
from benchmarks.training.case import Case, ModelShape
from iwpo_fast.data.pairs import Pairs

# Dense bf16 with float32 sums, as the vendors state.
PEAKS = {"H100 PCIe": 756e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "MI300X": 1307e12}


def layer_parameters(model: ModelShape) -> int:
    """Of the matrices of all layers: query, key, value, output, and three of the MLP."""
    attention = 2 * model.hidden * model.head_size * (model.heads + model.kv_heads)
    return model.layers * (attention + 3 * model.hidden * model.inner)


def step_flops(case: Case, pairs: Pairs) -> float:
    """Of one forward and backward pass over the pairs, by the convention of model FLOP utilisation.

    Two per parameter and token forward, four backward, or two where the weights are frozen (a LoRA's own products
    are left out). The head counts at completion tokens alone. Attention is causal: 2 · length² · width per sequence
    and layer forward, twice that backward. Padding and recomputation count nothing, embeddings neither.
    """
    model, passes = case.model, 4 if case.lora else 6
    prompt = pairs.prompt.lengths
    lengths = np.concatenate([prompt + pairs.chosen.lengths, prompt + pairs.rejected.lengths]).astype(np.float64)
    supervised = float(pairs.chosen.lengths.sum() + pairs.rejected.lengths.sum())
    products = passes * (layer_parameters(model) * lengths.sum() + model.vocab * model.hidden * supervised)
    attention = 6 * model.layers * model.heads * model.head_size * (lengths**2).sum()
    return float(products + attention)


def nominal_peak(device_name: str) -> float | None:
    """FLOP/s by the vendor's data sheet, where it is in the list."""
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large bare product of random matrices, the fastest of ten."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    seconds = []
    for _ in range(10):
        synchronise(device)
        begin = time.perf_counter()
        torch.mm(left, right)
        synchronise(device)
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)
