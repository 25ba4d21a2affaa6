"""Which rows are held out from training: a choice by prompt, the same whatever else is in the data."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from iwpo_fast.data.rows import Text

DIGEST = 16
"""Bytes of the hash of a prompt."""


def hold_out(prompts: Sequence[Text], prompt_ids: Iterable[Any] | None, fraction: float) -> np.ndarray:
    """bool [N], the rows to hold out: about `fraction` of the prompts, all rows of a prompt together.

    The side depends on the hash of the prompt alone (of its `prompt_id` where there is one), so it is the same whatever
    else is in the data. A prompt that stands under several ids is held out only if all of them are. Where a positive
    fraction comes to none of two or more prompts, the one of the smallest hash is held out.
    """
    values, digests, has_ids = array("d"), bytearray(), False
    for prompt, key in zip(prompts, repeat(None) if prompt_ids is None else prompt_ids, strict=prompt_ids is not None):
        digest = _digest(json.dumps(prompt, default=str))
        digests += digest
        values.append(_uniform(digest if key is None else _digest(str(key))))
        has_ids |= key is not None
    largest = _largest_of_equal(digests, np.array(values)) if has_ids else np.array(values)
    smallest = largest.min()
    if 0 < fraction <= smallest < largest.max():
        return largest == smallest
    return largest < fraction


def _largest_of_equal(digests: bytearray, values: np.ndarray) -> np.ndarray:
    """float64 [N], of each value the largest of those with the same digest."""
    _, which = np.unique(np.frombuffer(digests, dtype=f"V{DIGEST}"), return_inverse=True)
    largest = np.full(int(which.max()) + 1, -np.inf)
    np.maximum.at(largest, which, values)
    return largest[which]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()[:DIGEST]


def _uniform(digest: bytes) -> float:
    """A number in [0, 1) that depends on what was digested alone."""
    return int.from_bytes(digest[:8], "big") / 2**64
