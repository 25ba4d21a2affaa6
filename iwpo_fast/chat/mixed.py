"""A mixture of policies in a conversation: each answer is of one of them, drawn by its weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iwpo_fast.annotators.mixture import TypePolicy
from iwpo_fast.chat.speaker import Speaker


@dataclass
class Mixed(Speaker):
    """Speaks by the policy that is drawn for the answer; all of them know the whole conversation.

    Attributes:
        policies: of all types.
        weights: how often each of them answers.
    """

    policies: Sequence[TypePolicy] = ()
    weights: Sequence[float] = ()

    def answer(self, line: str, seed: int) -> None:
        """Print the answer of the policy that `seed` draws; errors are those of `Speaker`."""
        number = np.random.default_rng(seed).choice(len(self.policies), p=self.weights)
        policy = self.policies[number]
        self.model, self.tokenizer, self.inside = policy.model, policy.tokenizer, policy.in_use
        super().answer(line, seed)
