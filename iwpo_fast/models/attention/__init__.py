"""Attention over flat batches: each sequence attends causally to itself alone, by one of several backends.

Where sequences share a prompt, the model runs its tokens once: the first of the sequences asks for all of its tokens,
the others for their completions alone, and the keys and values of the prompt are repeated in front of them.
"""

from iwpo_fast.models.attention.choice import BACKENDS, backends, check_backend, take_first, why_absent
from iwpo_fast.models.attention.interface import KWARG, NAME, attend, native_attention, why_not_flat
from iwpo_fast.models.attention.metadata import AttentionMetadata, CannotRunFlat, Options

__all__ = [
    "BACKENDS",
    "KWARG",
    "NAME",
    "AttentionMetadata",
    "CannotRunFlat",
    "Options",
    "attend",
    "backends",
    "check_backend",
    "native_attention",
    "take_first",
    "why_absent",
    "why_not_flat",
]
