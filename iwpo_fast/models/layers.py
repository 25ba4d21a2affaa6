"""The layers of the decoder: what each keeps of its forward pass for the backward pass, and their compilation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

PRODUCTS = {f"aten.{name}.default": place for name, place in (("mm", 1), ("addmm", 2), ("bmm", 1), ("_grouped_mm", 1))}
"""Operators of matrix products as they print, and which of their inputs is the right factor [..., K, N]."""

CHEAP = 1 / 8
"""A product whose K is less than this fraction of N, such as an adapter's second, costs little for what it returns."""


COMPILER = "inductor"
"""Backend of `torch.compile`."""


def decoder_layers(decoder: PreTrainedModel) -> list[nn.Module]:
    """The layers of a decoder: the largest list of modules in it."""
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()), default=()))


def checkpoint_layer(layer: nn.Module, keep: Literal["selective", "full"], *, offload: bool = False) -> None:
    """Make the layer recompute its activations in the backward pass.

    Its parameters keep their names, and hooks on the layer, such as those of FSDP, run once, outside.

    Args:
        keep: what stays in memory beside the layer's inputs: with `selective` the outputs of matrix products and of
            attention, with `full` checkpointing nothing.
        offload: keep the layer's positional inputs, the hidden states, in host memory, pinned where there is a GPU.
    """
    options = {} if keep == "full" else {"context_fn": partial(create_selective_checkpoint_contexts, _keep_expensive)}
    forward = cast(Callable[..., Any], layer.forward)
    layer.forward = partial(_checkpointed, forward, options, offload)


def compile_layer(layer: nn.Module) -> None:
    """Compile the layer, once for all layers of its kind and for all lengths; flat attention stays as it is.

    Its parameters keep their names, and hooks on the layer, such as those of FSDP, run outside. A layer that is to be
    recomputed too must be compiled first.
    """
    layer.forward = torch.compile(cast(Callable[..., Any], layer.forward), dynamic=True, backend=COMPILER)


def _checkpointed(
    forward: Callable[..., Any], options: dict[str, Any], offload: bool, *inputs: Any, **others: Any
) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **others)
    with save_on_cpu(pin_memory=torch.cuda.is_available()) if offload else nullcontext():
        return checkpoint(forward, *inputs, **others, use_reentrant=False, **options)


def _keep_expensive(_context: object, operator: object, *inputs: Any, **_others: object) -> CheckpointPolicy:
    """Keep what matrix products and attention, of PyTorch or of a library of kernels, return."""
    name = str(operator)
    if name in PRODUCTS:
        inner, outer = inputs[PRODUCTS[name]].shape[-2:]
        expensive = inner >= CHEAP * outer
    else:
        expensive = any(word in name for word in ("attn", "attention", "gemm_4bit"))
    return CheckpointPolicy.MUST_SAVE if expensive else CheckpointPolicy.PREFER_RECOMPUTE
