"""The function by which models of transformers run flat batches, under the name `iwpo_flat`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from iwpo_fast.data.row_files import first_line
from iwpo_fast.models.attention.choice import BACKENDS
from iwpo_fast.models.attention.metadata import AttentionMetadata, CannotRunFlat, Options

NAME = "iwpo_flat"
"""Name under which transformers knows `flat_attention`."""

KWARG = "flat_sequences"
"""Keyword argument by which `AttentionMetadata` travels through the model to `flat_attention`."""


def flat_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [1, Hq, T, D], key and value [1, Hkv, T, D] → [1, T, Hq, D].

    Raises:
        CannotRunFlat: the model asks for more than causal attention inside each sequence, with a sliding window and a
            softcap at most, or for more than the backend has.
    """
    metadata: AttentionMetadata | None = options.get(KWARG)
    if metadata is None:
        raise CannotRunFlat("it does not hand keyword arguments on to its attention layers")
    _refuse_extras(module, attention_mask, options)
    window: int | None = options.get("sliding_window")
    window = window if window and window < metadata.max_seqlen else None
    dtype = torch.get_autocast_dtype(query.device.type) if torch.is_autocast_enabled(query.device.type) else query.dtype
    q, k, v = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))
    return attend(q, k, v, metadata, Options(options.get("scaling"), window, options.get("softcap")))[None], None


def attend(query: Tensor, key: Tensor, value: Tensor, metadata: AttentionMetadata, options: Options) -> Tensor:
    """Attention of T tokens: query [T, Hq, D], key and value [T, Hkv, D] → [T, Hq, D].

    In a context group, these are the tokens of this process, and all processes of the group must call it.
    """
    if metadata.rehearsal:
        return _rehearsed(query, key, value, replace(metadata, rehearsal=False), options)
    if metadata.context is not None:
        both = metadata.context.gathered(torch.cat([key, value], dim=-1))  # one exchange instead of two
        key, value = both.split([key.shape[-1], value.shape[-1]], dim=-1)
    if metadata.queries is not None:
        query = _rows(query, metadata.queries)
    if metadata.keys is not None:
        key, value = (_rows(x, metadata.keys) for x in (key, value))
    out = BACKENDS[metadata.backend](query, key, value, metadata, options)
    return out if metadata.scatter is None else _rows(out, metadata.scatter)


def why_not_flat(model: PreTrainedModel) -> str | None:
    """What the model declares that keeps it from running flat with any backend, or None."""
    if not model._supports_attention_backend:
        return "it does not take its attention from transformers' attention interface"
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        return f"it has layers of type {', '.join(other)}"
    return None


def native_attention(config: PreTrainedConfig) -> str:
    """What a model with this configuration attends with by itself.

    With a softcap, `sdpa` becomes `eager`, because some releases of transformers would leave the softcap out.
    """
    chosen: str = config._attn_implementation
    has_softcap = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if chosen == "sdpa" and has_softcap else chosen


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """values[index]; the backward pass of an embedding adds repeated rows in a fixed order on every device."""
    return F.embedding(index, values.flatten(1)).unflatten(1, values.shape[1:])


def _rehearsed(query: Tensor, key: Tensor, value: Tensor, metadata: AttentionMetadata, options: Options) -> Tensor:
    """`attend`, and then its backward pass, which some builds lack for head sizes and options that they run forward."""
    q, k, v = (x.detach().requires_grad_() for x in (query, key, value))
    with torch.enable_grad():
        out = attend(q, k, v, metadata, options)
        try:
            torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError as error:
            raise CannotRunFlat(f"the backward pass of {metadata.backend} refuses it ({first_line(error)})") from error
    return out.detach()


def _refuse_extras(module: nn.Module, mask: Tensor | None, options: dict[str, Any]) -> None:
    causal = options.get("is_causal")
    refused = {
        "a mask of its own": mask is not None,
        "attention dropout": options.get("dropout", 0.0) > 0,
        "attention that is not causal": not (getattr(module, "is_causal", True) if causal is None else causal),
        "attention sinks": options.get("s_aux") is not None,
        "a position bias": options.get("position_bias") is not None,
    }
    for what, wanted in refused.items():
        if wanted:
            raise CannotRunFlat(f"its attention uses {what}")


# Its tables are different for each batch, so that compiled layers would be compiled again and again.
AttentionInterface.register(NAME, torch.compiler.disable(flat_attention))
