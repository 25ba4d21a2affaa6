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


@dataclass(frozen=True)
class Responses:
    """The C responses that P pairs are made of, each once, behind their M prompts.

    Attributes:
        prompts: token ids, M rows.
        completions: token ids, C rows.
        prompt_of: int64 [C], prompt of each.
        chosen, rejected: int64 [P], the responses of each pair.
    """

    prompts: Ragged
    completions: Ragged
    prompt_of: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray

    @classmethod
    def of(cls, pairs: Pairs, texts: UniqueTexts) -> Responses:
        first = texts.responses.first
        chosen, rejected = texts.responses.of.reshape(-1, 2).T.copy()
        return cls(
            prompts=pairs.prompt.take(texts.prompts.first),
            # Chosen and rejected completions end to end, of which response 2p + side is row side · P + p.
            completions=Ragged.concatenate([pairs.chosen, pairs.rejected]).take(first // 2 + first % 2 * len(pairs)),
            prompt_of=texts.prompts.of[first // 2],
            chosen=chosen,
            rejected=rejected,
        )

    def __len__(self) -> int:
        return len(self.completions)

    @cached_property
    def first_of_prompt(self) -> np.ndarray:
        """bool [C]: whether each response is the first to its prompt."""
        return Numbered.by_key(self.prompt_of.tolist()).firsts

    def by_pair(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """What there is for each token of `completions`, for each token of the pairs' `chosen` and `rejected`."""
        rows = Ragged(values, self.completions.offsets)
        return {"chosen": rows.take(self.chosen).values, "rejected": rows.take(self.rejected).values}


def _digests(rows: Ragged) -> list[bytes]:
    return [hashlib.blake2b(rows[i].astype("<i4").tobytes(), digest_size=16).digest() for i in range(len(rows))]
