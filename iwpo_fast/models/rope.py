"""Rotary embeddings whose frequencies depend on the length of a sequence, each sequence with its own.

Models of transformers with `dynamic` or `longrope` scaling take the frequencies of the longest sequence for all of a
batch, so that a log-prob would depend on what else is in a micro-batch, and policy and reference would differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

CosSin = tuple[Tensor, Tensor]


class Limit(NamedTuple):
    """Up to `length` tokens all sequences have the same frequencies; above, all or each length has its own."""

    length: int
    each: bool


class RopeBySequence:
    """Stands in for the forward pass of every rotary embedding of a decoder that depends on lengths.

    Args:
        decoder: gets position ids that begin at 0 where a sequence begins, in every call outside of `together`.
        max_length: longest sequence to come, in tokens; None where it is not known.

    Attributes:
        limit: the smallest length above which frequencies are others; None where all sequences have the same, and
            then the decoder is left as it is.
    """

    def __init__(self, decoder: PreTrainedModel, max_length: int | None) -> None:
        self._apart = True
        self.limit: int | None = None
        for module in decoder.modules():
            limits = _limits(module)
            smallest = min((limit.length for limit in limits.values()), default=None)
            if smallest is not None and (max_length is None or max_length > smallest):
                self.limit = smallest if self.limit is None else min(self.limit, smallest)
                module.forward = torch.compiler.disable(self._of(module, limits))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, frequencies are those of transformers, by the longest sequence of a batch, as `generate` expects."""
        self._apart = False
        try:
            yield
        finally:
            self._apart = True

    def _of(self, module: nn.Module, limits: Mapping[str | None, Limit]) -> Callable[..., CosSin]:
        """The forward pass of one module: x is read for its type, position_ids [S, L] → cos and sin [S, L, D]."""
        forward = module.forward

        def by_sequence(x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> CosSin:
            def found(positions: Tensor) -> CosSin:
                _forget(module)
                forward(x, position_ids.new_zeros(1, 1), **of_layer)  # back to the frequencies of short sequences
                return forward(x, positions, **of_layer)

            of_layer = {} if layer_type is None else {"layer_type": layer_type}
            if not self._apart or layer_type not in limits:
                return found(position_ids)
            kind = _kinds(position_ids, limits[layer_type])
            cos, sin = found(position_ids.where(kind == 0, 0))
            for one in kind.unique().tolist():
                if one:
                    cos_of_one, sin_of_one = found(position_ids.where(kind == one, 0))
                    is_one = (kind == one)[..., None]
                    cos, sin = cos_of_one.where(is_one, cos), sin_of_one.where(is_one, sin)
            return cos, sin

        return by_sequence


def _limits(module: nn.Module) -> dict[str | None, Limit]:
    """Limits by kind of layer, of a rotary embedding that has any; one for all layers has the kind None."""
    types: Any = getattr(module, "rope_type", None)
    types = types if isinstance(types, dict) else {None: types}
    found = {layer: _limit(module, layer, rope_type) for layer, rope_type in types.items()}
    return {layer: limit for layer, limit in found.items() if limit is not None}


def _limit(module: Any, layer: str | None, rope_type: object) -> Limit | None:
    """As `transformers.modeling_rope_utils.dynamic_rope_update` decides; None where lengths make no difference."""
    if isinstance(rope_type, str) and "dynamic" in rope_type:
        return Limit(int(module.original_max_seq_len), each=True)
    if rope_type == "longrope":
        parameters = module.config.rope_parameters
        of_layer = parameters if layer is None else parameters[layer]
        return Limit(int(of_layer["original_max_position_embeddings"]), each=False)
    return None


def _kinds(position_ids: Tensor, limit: Limit) -> Tensor:
    """int64 like `position_ids` [S, L], equal for positions of equal frequencies; 0 up to the limit.

    A sequence begins with its row or at position 0, and is as long as its largest position says.
    """
    begins = position_ids == 0
    begins[..., 0] = True
    sequence = begins.flatten().cumsum(0) - 1
    last = torch.zeros_like(sequence).scatter_reduce(0, sequence, position_ids.flatten(), "amax")
    lengths = (last + 1)[sequence].view_as(position_ids)
    return (lengths if limit.each else lengths.clamp(max=limit.length + 1)).where(lengths > limit.length, 0)


def _forget(module: nn.Module) -> None:
    """Have the next short call take the frequencies of short sequences, which `dynamic` ones leave at the longest."""
    for name in list(vars(module)):
        if name.endswith("max_seq_len_cached"):
            setattr(module, name, sys.maxsize)
