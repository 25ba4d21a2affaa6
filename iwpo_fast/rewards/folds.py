"""Parts of the prompts, each scored by a model that never saw it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fold_of_prompts(keys: Sequence[bytes | str | int], folds: int, seed: int) -> NDArray[np.int64]:
    """Fold [M] int64 of every prompt, by hash: equal keys share a fold, and more prompts change nobody's fold."""
    return np.fromiter((_hash(key, seed) % folds for key in keys), dtype=np.int64, count=len(keys))


def _hash(key: bytes | str | int, seed: int) -> int:
    text = key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, salt=seed.to_bytes(16, "little", signed=True))
    return int.from_bytes(digest.digest(), "little")
