"""How much likelier completions of each type's policy are under each than under the reference: the L of MinMax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iwpo_fast.annotators.minmax import Floats
from iwpo_fast.config import CandidateConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models import Policy
from iwpo_fast.models.reference import as_it_is, logps_as_it_is
from iwpo_fast.sampling.blocks import Draw, blocks_of, seed_of
from iwpo_fast.sampling.by_transformers import draw_block
from iwpo_fast.world import World


@dataclass(frozen=True)
class Comparison:
    """Policies of types that answer the same prompts.

    Attributes:
        policy: with an adapter for each type.
        prompts: token ids.
        asked: how completions are drawn, and the tokens of a batch.
        ends: tokens that end a completion.
        pad: a token to fill up with.
    """

    policy: Policy
    prompts: Ragged
    asked: CandidateConfig
    ends: Sequence[int]
    pad: int
    world: World

    def gains(self, seed: int) -> Floats:
        """L [K, K]: mean of log π_i(y_j | x) - log π_ref(y_j | x) in nats, y_j of policy j. All ranks call it."""
        types = range(self.policy.types or 1)
        drawn = [self._drawn(number, seed) for number in types]
        with self.policy.disable_adapter():
            reference = self._means(drawn)
        found = []
        for number in types:
            self.policy.use(number)
            found.append(self._means(drawn) - reference)
        return np.stack(found)

    def _drawn(self, number: int, seed: int) -> Pairs:
        """A completion of each prompt by the policy of a type; all policies draw with the same random numbers."""
        self.policy.use(number)
        draws = self.world.from_main(self._draws(seed) if self.world.is_main else [])
        ended = [[*draw.tokens, *([] if draw.end is None else [draw.end])] for draw in draws]
        completions = Ragged.from_rows(ended)
        return Pairs(self.prompts, completions, completions, np.ones(len(ended)))  # equal responses run once

    def _draws(self, seed: int) -> list[Draw]:
        found: dict[int, Draw] = {}
        for place, block in enumerate(blocks_of(self.prompts.lengths, self.asked, "transformers")):
            some = self.prompts.take(block.prompt)
            draws = draw_block(
                self.policy,
                some,
                self.asked,
                ends=self.ends,
                pad=self.pad,
                seed=seed_of(seed, place, some),
                inside=as_it_is,
            )
            found |= dict(zip(block.prompt.tolist(), draws, strict=True))
        return [found[row] for row in range(len(self.prompts))]

    def _means(self, drawn: Sequence[Pairs]) -> Floats:
        """[K], mean log-prob of the completions of each type under the policy as it is."""
        budget = self.asked.tokens_per_batch
        logps = [logps_as_it_is(self.policy, pairs, self.world, tokens_per_batch=budget)[0] for pairs in drawn]
        return np.array([of_type[:, 0].mean(dtype=np.float64) for of_type in logps])
