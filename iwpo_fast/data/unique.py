"""Which pairs share a prompt or a response, by comparison of token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged


@dataclass(frozen=True)
class Responses:
    """The C responses, pairs of prompt and completion, that P pairs are made of, each once, behind their M prompts.

    Attributes:
        prompts: token ids, M rows.
        completions: token ids, C rows.
        prompt_of: int64 [C], prompt of each response.
        chosen, rejected: int64 [P], the responses of each pair.
    """

    prompts: Ragged
    completions: Ragged
    prompt_of: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray

    @classmethod
    def of(cls, pairs: Pairs) -> Responses:
        """Prompts and responses count from 0 in order of first appearance, a pair's chosen response first."""
        prompt, first_prompt = numbered(_digests(pairs.prompt))
        sides = zip(prompt.tolist(), _digests(pairs.chosen), _digests(pairs.rejected), strict=True)
        response, first = numbered((x, y) for x, chosen, rejected in sides for y in (chosen, rejected))
        chosen, rejected = response.reshape(-1, 2).T.copy()
        return cls(
            prompts=pairs.prompt.take(first_prompt),
            # Chosen and rejected completions end to end, of which response 2p + side is row side · P + p.
            completions=Ragged.concatenate([pairs.chosen, pairs.rejected]).take(first // 2 + first % 2 * len(pairs)),
            prompt_of=prompt[first // 2],
            chosen=chosen,
            rejected=rejected,
        )

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def prompt_keys(self) -> list[str]:
        """M hex digests of the prompts' token ids, the same in every data set and on every machine."""
        return [digest.hex() for digest in _digests(self.prompts)]

    @cached_property
    def first_of_prompt(self) -> np.ndarray:
        """bool [C]: whether each response is the first to its prompt."""
        is_first = np.zeros(len(self), dtype=bool)
        is_first[np.unique(self.prompt_of, return_index=True)[1]] = True
        return is_first

    def by_pair(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Values per token of `completions`, repeated per token of the pairs' `chosen` and `rejected`."""
        rows = Ragged(values, self.completions.offsets)
        return {"chosen": rows.take(self.chosen).values, "rejected": rows.take(self.rejected).values}


def numbered(keys: Iterable[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Equal keys get equal numbers, counted from 0 in order of first appearance.

    Returns:
        int64 [n], the number of each key; int64 [u], where the key of each number appears first.
    """
    numbers: dict[Hashable, int] = {}
    of = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), dtype=np.int64)
    return of, np.unique(of, return_index=True)[1].astype(np.int64)


def _digests(rows: Ragged) -> list[bytes]:
    return [hashlib.blake2b(rows[i].astype("<i4").tobytes(), digest_size=16).digest() for i in range(len(rows))]
