"""Attention over flat batches: sequences end to end, each attending causally to itself alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

NAME = "iwpo_flat"
"""Name under which transformers knows `flat_attention`."""

KWARG = "flat_sequences"
"""Keyword argument by which `Sequences` travel through the model to `flat_attention`."""

VARLEN_TAKES_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters
"""Whether this PyTorch's varlen attention has fewer key than query heads; that of 2.11 has not."""


class CannotRunFlat(Exception):
    """The model wants something of attention that flat batches do not offer; the message says what."""


@dataclass(frozen=True)
class Sequences:
    """Where the sequences of a flat batch are, and how attention over them is computed.

    Attributes:
        cu_seqlens: int32 [S + 1], sequence s is tokens cu_seqlens[s] to cu_seqlens[s + 1].
        max_seqlen: length of the longest sequence.
        lengths: length of each sequence, on the host; empty where the backend does not need it.
        backend: name in `BACKENDS`.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    lengths: list[int]
    backend: str

    @classmethod
    def of(cls, cu_seqlens: Tensor, max_seqlen: int, backend: str) -> Sequences:
        """Read the lengths once for all layers, and only if needed: on a GPU this waits for the device."""
        lengths = [] if backend == "varlen" else cu_seqlens.diff().tolist()
        return cls(cu_seqlens, max_seqlen, lengths, backend)


Backend = Callable[[Tensor, Tensor, Tensor, Sequences, float | None], Tensor]


def varlen(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scale: float | None) -> Tensor:
    """One launch of varlen flash attention: query [T, Hq, D], key and value [T, Hkv, D] → [T, Hq, D]."""
    if query.shape[-1] != value.shape[-1] or query.shape[-1] > 256:
        raise CannotRunFlat("flash attention wants heads of one size, at most 256")
    bounds, longest = sequences.cu_seqlens, sequences.max_seqlen
    options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0)}
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and VARLEN_TAKES_GROUPS:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    out = varlen_attn(query, key, value, bounds, bounds, longest, longest, **options)
    assert isinstance(out, Tensor)
    return out


def per_sequence(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scale: float | None) -> Tensor:
    """Scaled dot-product attention, sequence by sequence; shapes as in `varlen`."""
    heads_first = (x.transpose(0, 1)[None].split(sequences.lengths, dim=2) for x in (query, key, value))
    gqa = query.shape[1] != key.shape[1]
    outputs = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=gqa)
        for q, k, v in zip(*heads_first, strict=True)
    ]
    return torch.cat(outputs, dim=2)[0].transpose(0, 1)


BACKENDS: dict[str, Backend] = {"varlen": varlen, "sdpa_per_sequence": per_sequence}


def backends(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Backends that compute attention in `dtype` on `device`, the fastest first; a model may suit only some."""
    half = dtype in (torch.bfloat16, torch.float16)
    return ["varlen", "sdpa_per_sequence"] if device.type == "cuda" and half else ["sdpa_per_sequence"]


def flat_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [1, Hq, T, D], key and value [1, Hkv, T, D] → [1, T, Hq, D].

    Raises:
        CannotRunFlat: the model asks for more than causal attention inside each sequence.
    """
    sequences = kwargs.get(KWARG)
    if sequences is None:
        raise CannotRunFlat("it does not hand keyword arguments on to its attention layers")
    _refuse_extras(module, attention_mask, dropout, sequences.max_seqlen, kwargs)
    dtype = torch.get_autocast_dtype(query.device.type) if torch.is_autocast_enabled(query.device.type) else query.dtype
    q, k, v = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))
    return BACKENDS[sequences.backend](q, k, v, sequences, scaling)[None], None


def _refuse_extras(
    module: nn.Module, mask: Tensor | None, dropout: float, longest: int, kwargs: dict[str, Any]
) -> None:
    window = kwargs.get("sliding_window")
    causal = kwargs.get("is_causal")
    refused = {
        "a mask of its own": mask is not None,
        "attention dropout": dropout > 0,
        "attention that is not causal": not (getattr(module, "is_causal", True) if causal is None else causal),
        "a softcap on attention scores": kwargs.get("softcap") is not None,
        "attention sinks": kwargs.get("s_aux") is not None,
        "a position bias": kwargs.get("position_bias") is not None,
        f"a sliding window of {window} tokens": window is not None and longest > window,
    }
    for what, wanted in refused.items():
        if wanted:
            raise CannotRunFlat(f"its attention uses {what}")


def why_not_flat(model: PreTrainedModel, max_length: int | None) -> str | None:
    """What the model declares that keeps it from running flat, or None.

    Args:
        max_length: length of the longest sequence it will see; None where it is not known.
    """
    config = model.config.get_text_config()
    if not model._supports_attention_backend:
        return "it does not take its attention from transformers' attention interface"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        return f"it has layers of type {', '.join(other)}"
    window = getattr(config, "sliding_window", None)
    windowed = "sliding_attention" in kinds or getattr(config, "layer_types", None) is None
    if window is not None and windowed and (max_length is None or max_length > window):
        return f"its attention uses a sliding window of {window} tokens"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention uses a softcap on attention scores"
    return None


AttentionInterface.register(NAME, flat_attention)
