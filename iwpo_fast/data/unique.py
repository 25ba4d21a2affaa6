"""Which pairs share a prompt or a response, told by token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged


@dataclass(frozen=True)
class Numbered:
    """Equal things under one number; numbers count from 0 in order of first appearance.

    Attributes:
        of: int64 [n], number of each thing.
        first: int64 [u], where the thing of each number appears first.
    """

    of: np.ndarray
    first: np.ndarray

    @classmethod
    def by_key(cls, keys: Iterable[Hashable]) -> Numbered:
        numbers: dict[Hashable, int] = {}
        of = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), dtype=np.int64)
        return cls(of, np.unique(of, return_index=True)[1].astype(np.int64))

    @cached_property
    def firsts(self) -> np.ndarray:
        """bool [n]: whether each thing is the first of its number."""
        return self.first[self.of] == np.arange(len(self.of))


@dataclass(frozen=True)
class UniqueTexts:
    """The M prompts and C responses, pairs of prompt and completion, that P pairs are made of.

    Attributes:
        prompts: numbers of the P prompts.
        responses: numbers of the 2P responses; those of pair p are at 2p (chosen) and 2p + 1 (rejected).
        prompt_keys: M hex digests of token ids, the same in every data set and on every machine.
    """

    prompts: Numbered
    responses: Numbered
    prompt_keys: list[str]

    @classmethod
    def of(cls, pairs: Pairs) -> UniqueTexts:
        keys = _digests(pairs.prompt)
        prompts = Numbered.by_key(keys)
        sides = zip(prompts.of.tolist(), _digests(pairs.chosen), _digests(pairs.rejected), strict=True)
        responses = Numbered.by_key((x, y) for x, chosen, rejected in sides for y in (chosen, rejected))
        return cls(prompts, responses, [keys[i].hex() for i in prompts.first])


def _digests(rows: Ragged) -> list[bytes]:
    return [hashlib.blake2b(rows[i].astype("<i4").tobytes(), digest_size=16).digest() for i in range(len(rows))]
