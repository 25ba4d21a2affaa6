"""Which responses are compared with which: pairs as rows of a table of responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


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
