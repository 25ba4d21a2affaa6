"""A preference data set small enough to train on in a test."""

from __future__ import annotations

import json
import random
from pathlib import Path

WORDS = ["red", "green", "blue", "warm", "cold", "small", "large", "quick", "slow", "calm"]


def write_pairs(path: Path, *, rows: int, seed: int = 0, **columns: list[float]) -> Path:
    """Chosen completions repeat the prompt's words, rejected ones are other words."""
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for i in range(rows):
            asked = rng.choices(WORDS, k=rng.randint(1, 6))
            row = {
                "prompt": "say: " + " ".join(asked) + "\n",
                "chosen": " ".join(asked),
                "rejected": " ".join(rng.choices(WORDS, k=rng.randint(1, 6))) + " no",
            }
            row |= {name: values[i] for name, values in columns.items()}
            file.write(json.dumps(row) + "\n")
    return path
