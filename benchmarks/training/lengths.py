"""Pairs of random tokens whose lengths follow those of preference data sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged


@dataclass(frozen=True)
class LogNormal:
    """exp(N(log median, spread²)) tokens."""

    median: float
    spread: float

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        """int64 [count], each at least 1."""
        drawn = random.lognormal(np.log(self.median), self.spread, count)
        return np.maximum(drawn.astype(np.int64), 1)


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and completions; chosen and rejected completions are drawn alike."""

    prompt: LogNormal
    completion: LogNormal


# HH is fitted to the harmless test split (2,307 pairs, byte-level BPE of 2,048 entries: log-means 4.54 and 3.61,
# standard deviations 1.02 and 0.94). The others are round numbers for what is commonly reported of those sets
# (UltraFeedback: short instructions with a long tail, answers of some 300 tokens; TL;DR: posts of some 300 tokens,
# summaries of some 35), not fits.
LENGTHS = {
    "HH": Lengths(LogNormal(94, 1.0), LogNormal(37, 0.95)),
    "UltraFeedback": Lengths(LogNormal(90, 1.0), LogNormal(260, 0.7)),
    "TL;DR": Lengths(LogNormal(290, 0.45), LogNormal(33, 0.35)),
}


def synthetic_pairs(name: str, count: int, *, vocab: int, max_length: int, seed: int = 0) -> Pairs:
    """Uniformly random tokens; completions are cut to `max_length` - 1, prompts to what the longer one leaves."""
    random, lengths = np.random.default_rng(seed), LENGTHS[name]
    completions = np.minimum(lengths.completion.draw(random, 2 * count).reshape(2, count), max_length - 1)
    prompts = np.minimum(lengths.prompt.draw(random, count), max_length - completions.max(0))
    return _pairs(random, vocab, prompts, *completions)


def equal_pairs(count: int, *, vocab: int, length: int, seed: int = 0) -> Pairs:
    """Prompts of half the length, completions of a quarter to a half."""
    random = np.random.default_rng(seed)
    completions = random.integers(length // 4, length // 2, (2, count), endpoint=True)
    return _pairs(random, vocab, np.full(count, length // 2), *completions)


def _pairs(
    random: np.random.Generator, vocab: int, prompts: np.ndarray, chosen: np.ndarray, rejected: np.ndarray
) -> Pairs:
    def tokens(lengths: np.ndarray) -> Ragged:
        return Ragged.from_rows([random.integers(1, vocab, n) for n in lengths])

    return Pairs(tokens(prompts), tokens(chosen), tokens(rejected), weight=np.ones(len(prompts)))
