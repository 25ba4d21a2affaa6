"""Features of responses by a language model that the folds of a reward model have tuned, each in its own way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from iwpo_fast.data import Pairs
from iwpo_fast.data.unique import Responses
from iwpo_fast.models import Policy
from iwpo_fast.models.reference import as_it_is, pass_batches, response_bar, run_batches
from iwpo_fast.rewards.blocks import Float32s
from iwpo_fast.rewards.features import response_states
from iwpo_fast.rewards.fold_adapters import put_adapter
from iwpo_fast.rewards.reward_model_files import damage
from iwpo_fast.world import World


@dataclass(frozen=True)
class TunedFeatures:
    """Features [C, d] of one fold after another, each from a pass of its own; they are kept nowhere.

    Attributes:
        policy: has an adapter, whose weights each fold replaces by its own.
        pairs: tokenised, with the C responses.
        adapters: folder of each fold's, inside that of the reward model.
        tokens_per_batch: tokens that one batch may hold; a single longer response runs alone.
    """

    policy: Policy
    pairs: Pairs
    world: World
    adapters: Sequence[Path]
    tokens_per_batch: int

    def __iter__(self) -> Iterator[Float32s]:
        for number, adapter in enumerate(self.adapters, start=1):
            with damage(adapter.parents[1]):
                put_adapter(self.policy, adapter)
            yield self._of_policy(f"features of fold {number} of {len(self.adapters)}")

    def _of_policy(self, what: str) -> Float32s:
        """By the policy as it is now."""
        policy, responses, world = self.policy, Responses.of(self.pairs), self.world
        features = np.zeros((len(responses), policy.head.linear.weight.shape[1]), np.float32)
        batches = pass_batches(policy, responses, self.tokens_per_batch, world)[world.data_rank]
        with as_it_is(policy), response_bar(what, sum(map(len, batches)), world) as bar:
            for rows, batch in run_batches(policy, responses, batches, world):
                features[rows] = response_states(policy.hidden_states(batch), batch).cpu().numpy()
                bar.update(len(rows))
        # Each rank filled the rows of its own responses and left zeros elsewhere, so the sum joins them.
        return np.asarray(world.sum_(torch.from_numpy(features).to(world.device)).cpu().numpy())
