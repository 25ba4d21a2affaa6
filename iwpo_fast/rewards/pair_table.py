"""Which responses are compared with which, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from iwpo_fast.rewards.blocks import Floats, Ints


@dataclass(frozen=True)
class PairTable:
    """Pairs over C responses to M prompts; responses may be in many pairs, or in none.

    Attributes:
        prompt: [P] int64, row of the prompt.
        chosen: [P] int64, row of the preferred response.
        rejected: [P] int64, row of the other response.
        prompt_of: [C] int64, prompt of every response.

    Raises:
        ValueError: if the arrays do not fit together.
    """

    prompt: Ints
    chosen: Ints
    rejected: Ints
    prompt_of: Ints

    def __post_init__(self) -> None:
        for name in ("prompt", "chosen", "rejected", "prompt_of"):
            values = getattr(self, name)
            if values.ndim != 1 or values.dtype != np.int64:
                raise ValueError(f"{name} has shape {values.shape} and type {values.dtype}: it must be 1-d int64.")
        if not len(self.prompt) == len(self.chosen) == len(self.rejected):
            raise ValueError(
                f"The table has {len(self.prompt)} prompts, {len(self.chosen)} chosen and {len(self.rejected)} "
                "rejected rows: there must be one of each per pair."
            )
        if not len(self.prompt):
            raise ValueError("The table has no pairs, so there is nothing to learn rewards from: give it some.")
        for name in ("chosen", "rejected"):
            rows = getattr(self, name)
            if rows.min() < 0 or rows.max() >= len(self.prompt_of):
                raise ValueError(f"A {name} row lies outside the {len(self.prompt_of)} responses: correct the table.")
            if (self.prompt_of[rows] != self.prompt).any():
                pair = int(np.flatnonzero(self.prompt_of[rows] != self.prompt)[0])
                raise ValueError(f"The {name} response of pair {pair} belongs to another prompt: correct the table.")

    def __len__(self) -> int:
        return len(self.prompt)

    @classmethod
    def plain(cls, prompt: Ints) -> Self:
        """Two responses of their own for each pair: those of pair p are rows 2p (chosen) and 2p + 1 (rejected)."""
        rows = 2 * np.arange(len(prompt), dtype=np.int64)
        return cls(prompt=prompt, chosen=rows, rejected=rows + 1, prompt_of=np.repeat(prompt, 2))

    def pairs_per_prompt(self, prompts: int) -> Ints:
        """[M] int64."""
        return np.bincount(self.prompt, minlength=prompts)


@dataclass(frozen=True)
class PairFeatures:
    """Features of the M prompts and C responses that P pairs are made of, each once, perhaps memory-mapped.

    Attributes:
        table: which prompt and responses each pair consists of.
        prompt: [M, d], the hidden state at the last prompt token.
        response: [C, d], the mean of the hidden states at the completion's tokens.
        mean_logps: [C], mean log-prob of each response's tokens under the frozen model, 0 for an empty one; None where
            it is not known.
        prompt_keys: M, equal for prompts that share a fold, such as digests of their token ids; None for the rows.
        lengths: [C] int64, tokens of each response that the assistant wrote; None where they are not known.
        tuned: [C, d], the responses by the model as each fold has tuned it, fold after fold; None where it is frozen.
    """

    table: PairTable
    prompt: Floats
    response: Floats
    mean_logps: Floats | None = None
    prompt_keys: Sequence[bytes | str | int] | None = None
    lengths: Ints | None = None
    tuned: Iterable[Floats] | None = None
