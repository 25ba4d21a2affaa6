"""Whether answers have degenerated: their length, what they repeat, and whether they end by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from iwpo_fast.evaluation.bootstrap import Float64s

GRAM = 4
LOOPS = 0.5
"""Above this share of repeated 4-grams an answer counts as a loop."""


def repetition(tokens: Sequence[int], size: int = GRAM) -> float:
    """Share of the n-grams that stood in the answer before, seq-rep-n of Welleck et al. (2020); 0 for short answers.

    Args:
        tokens: ids of an answer.
    """
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def probes(tokens: Sequence[Sequence[int]], ended: Sequence[bool]) -> dict[str, Float64s]:
    """What is looked at of each of n answers, float64 [n] each.

    Args:
        tokens: ids of each, without the token that ends it.
        ended: whether it ended by itself, and not because it was long enough.

    Returns:
        `tokens`; `ended` and `empty`, 0 or 1; `repetition`; `loops`, 1 where that is above one half.
    """
    repeated = np.array([repetition(ids) for ids in tokens], dtype=np.float64)
    lengths = np.array([len(ids) for ids in tokens], dtype=np.float64)
    return {
        "tokens": lengths,
        "ended": np.array(ended, dtype=np.float64),
        "empty": (lengths == 0).astype(np.float64),
        "repetition": repeated,
        "loops": (repeated > LOOPS).astype(np.float64),
    }
