"""Pairs of a file, and pairs of random tokens whose lengths follow those of preference data sets."""

from __future__ import annotations

import tempfile

import numpy as np

from iwpo_fast.config import DataConfig
from iwpo_fast.data import Pairs, read_rows, tokenise
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models.tiny import train_tokenizer

LogNormal = tuple[float, float]  # exp(N(log median, spread²)) tokens: median and spread

# Of prompts and of completions; chosen and rejected completions are drawn alike. HH is fitted to the harmless test
# split (2,307 pairs, byte-level BPE of 2,048 entries: log-means 4.54 and 3.61, standard deviations 1.02 and 0.94). The
# others are no fits but round numbers for what is commonly reported of those sets (UltraFeedback: short instructions
# with a long tail, answers of some 300 tokens; TL;DR: posts of some 300 tokens, summaries of some 35).
LENGTHS: dict[str, tuple[LogNormal, LogNormal]] = {
    "HH": ((94, 1.0), (37, 0.95)),
    "UltraFeedback": ((90, 1.0), (260, 0.7)),
    "TL;DR": ((290, 0.45), (33, 0.35)),
}


def load_pairs(path: str, *, vocab: int, max_length: int, seed: int = 0) -> Pairs:
    """Pairs of a file in random order, tokenised by a byte-level BPE that is trained on them, as in the recipe.

    Scarce text gives fewer than `vocab` entries.
    """
    rows = read_rows(DataConfig(path=path, eval_fraction=0.0))[0]
    tokenizer = train_tokenizer(rows.texts(), vocab)
    with tempfile.TemporaryDirectory() as cache:
        pairs, _ = tokenise(
            rows, tokenizer, DataConfig(path=path, max_length=max_length, cache_dir=cache, train_on="all")
        )
    return pairs.take(np.random.default_rng(seed).permutation(len(pairs)))


def synthetic_pairs(name: str, count: int, *, vocab: int, max_length: int, seed: int = 0) -> Pairs:
    """Uniformly random tokens; completions are cut to `max_length` - 1, prompts to what the longer one leaves."""
    random, (prompt, completion) = np.random.default_rng(seed), LENGTHS[name]
    completions = np.minimum(_drawn(random, completion, 2 * count).reshape(2, count), max_length - 1)
    prompts = np.minimum(_drawn(random, prompt, count), max_length - completions.max(0))
    return _pairs(random, vocab, prompts, *completions)


def equal_pairs(count: int, *, vocab: int, length: int, seed: int = 0) -> Pairs:
    """Prompts of half the length, completions of a quarter to a half."""
    random = np.random.default_rng(seed)
    completions = random.integers(length // 4, length // 2, (2, count), endpoint=True)
    return _pairs(random, vocab, np.full(count, length // 2), *completions)


def _drawn(random: np.random.Generator, lengths: LogNormal, count: int) -> np.ndarray:
    """int64 [count], each at least 1."""
    median, spread = lengths
    return np.maximum(random.lognormal(np.log(median), spread, count).astype(np.int64), 1)


def _pairs(
    random: np.random.Generator, vocab: int, prompts: np.ndarray, chosen: np.ndarray, rejected: np.ndarray
) -> Pairs:
    def tokens(lengths: np.ndarray) -> Ragged:
        return Ragged.from_rows([random.integers(1, vocab, n) for n in lengths])

    return Pairs(tokens(prompts), tokens(chosen), tokens(rejected), weight=np.ones(len(prompts)))
