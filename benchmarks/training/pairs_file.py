"""Pairs of a file, tokenised as the recipe does."""

from __future__ import annotations

import tempfile

import numpy as np

from iwpo_fast.config import DataConfig
from iwpo_fast.data import Pairs, read_rows, tokenise
from iwpo_fast.models.tiny import train_tokenizer


def load_pairs(path: str, *, vocab: int, max_length: int, seed: int = 0) -> Pairs:
    """In random order, by a byte-level BPE trained on the file; scarce text gives fewer than `vocab` entries."""
    rows = read_rows(DataConfig(path=path, eval_fraction=0.0, on_prefix_mismatch="drop")).train
    tokenizer = train_tokenizer(rows.texts(), vocab)
    with tempfile.TemporaryDirectory() as cache:
        pairs, _ = tokenise(rows, tokenizer, DataConfig(path=path, max_length=max_length, cache_dir=cache))
    return pairs.take(np.random.default_rng(seed).permutation(len(pairs)))
