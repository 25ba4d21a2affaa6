"""Base weights in 4 bits under an adapter: QLoRA (Dettmers et al., arXiv 2305.14314), by bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel


def loading_options(compute_dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantise all linear layers on `device`, except the LM head.

    Weights become 4-bit NormalFloat in blocks of 64, whose scales become 8-bit in blocks of 256 (double quantisation).
    """
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )
    return {"quantization_config": settings, "device_map": {"": str(device)}}


def keep_as_quantised(model: PreTrainedModel) -> None:
    """Keep the weights as they are where a CPU has bfloat16 instructions.

    There bitsandbytes would pack them, when the model is first evaluated, into a form that it rounds and that passes on
    no gradient.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def scales_kept(model: nn.Module) -> Iterator[None]:
    """Layers keep their scales while the body replaces their codes by parts of these, which know nothing of scales.

    bitsandbytes then finds them with the layer when the codes are whole again, and `scales` with the part.
    """
    layers: Any = [module for module in model.modules() if scales(module._parameters.get("weight"))]
    for layer in layers:
        layer.quant_state = layer.weight.quant_state
    yield
    for layer in layers:
        layer.weight.quant_state = layer.quant_state


def scales(parameter: Tensor | None) -> dict[str, Tensor]:
    """What is held beside the codes of a quantised parameter, by name; nothing for any other tensor."""
    state = getattr(parameter, "quant_state", None)
    return {} if state is None else state.as_dict(packed=True)


def entries(parameter: nn.Parameter) -> int:
    """Number of entries, two of which are in each byte of a quantised parameter."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()
