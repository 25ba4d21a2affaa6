"""What a training is about: built top to bottom in `train`, then only read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iwpo_fast.config import TrainConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.models import Policy
from iwpo_fast.models.reference import ReferenceLogps
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.world import World


@dataclass(frozen=True)
class Job:
    """Everything that stays the same from the first step to the last.

    Attributes:
        pairs: what is trained on; `replace` makes the job of evaluating others.
        reference: log-probs of the pairs under the reference, or None for objectives without one.
    """

    config: TrainConfig
    world: World
    policy: Policy
    loss: PreferenceLoss
    pairs: Pairs
    reference: ReferenceLogps | None = None

    def batch(self, rows: np.ndarray) -> FlatBatch:
        """The given pairs, with what the objective reads of the reference, on the host."""
        sums = tokens = None
        if self.reference is not None:
            sums = self.reference.sequences
            tokens = self.reference.tokens if self.loss.mixture.reads(Reads.SHARED_TOKENS) else None
        return flat_batch(self.pairs, rows, sums, tokens)
