"""Which completions are drawn together, and from which seed."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import numpy as np

from iwpo_fast.config import CandidateConfig
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import digests

OF_VLLM = 4096
"""Completions of a block of vLLM, which makes its batches itself."""


class Block(NamedTuple):
    """The completions of a block: which prompt each answers, and which of its draws it is, int64 [B] each."""

    prompt: np.ndarray
    draw: np.ndarray


class Draw(NamedTuple):
    """A drawn completion.

    Attributes:
        tokens: its ids, without the token that ends it.
        ended: whether it ended by itself, and not because it was long enough.
        log_mu: log-prob of all its tokens, and of its end, under the sampler, after temperature and top-p.
        log_model: the same under the model itself; None where the sampler does not tell it.
        end: the token that ended it; None where it was cut.
    """

    tokens: list[int]
    ended: bool
    log_mu: float
    log_model: float | None
    end: int | None = None


def blocks_of(lengths: np.ndarray, settings: CandidateConfig, backend: str) -> list[Block]:
    """Blocks of prompts of similar length, the longest first, so that memory fails early.

    Args:
        lengths: int64 [M], tokens of each prompt.
    """
    order = np.argsort(-lengths, kind="stable")
    prompt = np.repeat(order, settings.per_prompt)
    draw = np.tile(np.arange(settings.per_prompt), len(order))
    blocks, start = [], 0
    while start < len(prompt):
        longest = int(lengths[prompt[start]]) + settings.max_new_tokens
        size = OF_VLLM if backend == "vllm" else max(1, settings.tokens_per_batch // longest)
        blocks.append(Block(prompt[start : start + size], draw[start : start + size]))
        start += size
    return blocks


def seed_of(seed: int, number: int, prompts: Ragged) -> int:
    """Seed of a block, of the run's seed, the block's number and the token ids of its prompts alone."""
    described = json.dumps([seed, number, *(digest.hex() for digest in digests(prompts))])
    return int.from_bytes(hashlib.sha256(described.encode()).digest()[:8], "big") >> 1
