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
    """The C responses, of prompt and completion, in P pairs and among their K candidates, each once, behind M prompts.

    Attributes:
        prompts: token ids, M rows.
        completions: token ids, C rows.
        prompt_of: int64 [C], prompt of each response.
        chosen, rejected: int64 [P], the responses of each pair.
        candidates: int64 [K], the response that each candidate is.
        present: bool [C], which responses there are; None where all are. An absent one has no tokens, and stands in the
            place of the other completion of pairs that have one.
    """

    prompts: Ragged
    completions: Ragged
    prompt_of: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    candidates: np.ndarray
    present: np.ndarray | None = None

    @classmethod
    def of(cls, pairs: Pairs) -> Responses:
        """Prompts and responses count from 0 in order of first appearance, a pair's chosen response first.

        Responses in no pair come behind all others.
        """
        prompt, first_prompt = numbered(digests(pairs.prompt))
        sides = zip(prompt.tolist(), digests(pairs.chosen), digests(pairs.rejected), strict=True)
        keys = [(x, y) for x, chosen, rejected in sides for y in (chosen, rejected)]
        # Chosen and rejected completions end to end, of which response 2p + side is row side · P + p.
        place, of_response = np.arange(2 * len(pairs)).reshape(2, -1).T.ravel(), np.repeat(prompt, 2)
        completions = [pairs.chosen, pairs.rejected]
        if (others := pairs.candidates) is not None:
            keys += zip(prompt[others.pair].tolist(), digests(others.completions), strict=True)
            place = np.concatenate([place, np.arange(2 * len(pairs), len(keys))])
            of_response = np.concatenate([of_response, prompt[others.pair]])
            completions.append(others.completions)
        response, first = numbered(keys)
        chosen, rejected = response[: 2 * len(pairs)].reshape(-1, 2).T.copy()
        of_responses = Ragged.concatenate(completions).take(place[first])
        return cls(
            prompts=pairs.prompt.take(first_prompt),
            completions=of_responses,
            prompt_of=of_response[first],
            chosen=chosen,
            rejected=rejected,
            candidates=response[2 * len(pairs) :],
            present=None if pairs.present is None else of_responses.lengths > 0,
        )

    def __len__(self) -> int:
        return len(self.completions)

    @cached_property
    def to_run(self) -> np.ndarray:
        """int64, the responses that there are."""
        return np.flatnonzero(self.there(np.arange(len(self))))

    def there(self, responses: np.ndarray) -> np.ndarray:
        """bool [n], which of these responses, int64 [n], there are."""
        return np.ones(len(responses), dtype=bool) if self.present is None else self.present[responses]

    @property
    def prompt_keys(self) -> list[str]:
        """M hex digests of the prompts' token ids, the same in every data set and on every machine."""
        return [digest.hex() for digest in digests(self.prompts)]

    @cached_property
    def first_of_prompt(self) -> np.ndarray:
        """bool [C]: whether each response is the first to its prompt."""
        is_first = np.zeros(len(self), dtype=bool)
        is_first[np.unique(self.prompt_of, return_index=True)[1]] = True
        return is_first

    def by_pair(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Values per token of `completions`, repeated per token of the pairs' `chosen` and `rejected`."""
        chosen, rejected = self._repeated(values, self.chosen), self._repeated(values, self.rejected)
        # Two arrays also where both sides of all pairs are the same, because files hold no array under two names.
        return {"chosen": chosen, "rejected": rejected.copy() if rejected is chosen else rejected}

    def by_candidate(self, values: np.ndarray) -> np.ndarray:
        """The same, per token of the candidates."""
        return self._repeated(values, self.candidates)

    def _repeated(self, values: np.ndarray, responses: np.ndarray) -> np.ndarray:
        return Ragged(values, self.completions.offsets).take(responses).values


def numbered(keys: Iterable[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Equal keys get equal numbers, counted from 0 in order of first appearance.

    Returns:
        int64 [n], the number of each key; int64 [u], where the key of each number appears first.
    """
    numbers: dict[Hashable, int] = {}
    of = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), dtype=np.int64)
    return of, np.unique(of, return_index=True)[1].astype(np.int64)


def digests(rows: Ragged) -> list[bytes]:
    """One of each row of token ids, equal for equal rows alone."""
    return [hashlib.blake2b(rows[i].astype("<i4").tobytes(), digest_size=16).digest() for i in range(len(rows))]
