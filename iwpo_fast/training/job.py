"""What a training is about, built top to bottom in `train` and then only read, and the micro-batches of its steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from iwpo_fast.config import TrainConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.ahead import made_ahead
from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.data.order import MicroBatch, as_micro_batches, micro_batches, step_rows
from iwpo_fast.models import Policy
from iwpo_fast.models.router import RouterLoss
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.optimisation import optimizer_steps
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.world import World

Batches = Iterable[tuple[MicroBatch, FlatBatch]]


@dataclass(frozen=True)
class Job:
    """Everything that stays the same from the first step to the last.

    Attributes:
        pairs: what is trained on, with reference log-probs if the objective reads them.
        held_out: pairs to evaluate on, likewise, or None.
        router: the auxiliary loss of a mixture of experts, where the model asks for it.
        reference: hash of another model that is the reference, where there is one.
    """

    config: TrainConfig
    world: World
    policy: Policy
    loss: PreferenceLoss
    pairs: Pairs
    held_out: Pairs | None = None
    router: RouterLoss | None = None
    reference: str | None = None

    @property
    def evaluation(self) -> Job | None:
        """The same on the held-out pairs, if there are any."""
        return None if self.held_out is None else replace(self, pairs=self.held_out)

    @property
    def steps_per_epoch(self) -> int:
        return optimizer_steps(self.config.optim, len(self.pairs))[0]

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return optimizer_steps(self.config.optim, len(self.pairs))[1]

    def rows_of_step(self, step: int) -> np.ndarray:
        """int64, the pairs of an optimiser step, counted from 0, over all ranks."""
        return step_rows(len(self.pairs), step, pairs_per_step=self.config.optim.pairs_per_step, seed=self.config.seed)

    def denominator(self, rows: np.ndarray) -> float:
        """What the loss of a step over `rows` is divided by: the number of its pairs, or the sum of their weights.

        Every micro-batch of the step divides by it, so the gradient does not depend on how the step was cut. Where
        samples of the reference stand among the pairs, it is the expectation for a step of so many rows, so that pairs
        and samples count as they do over all steps.
        """
        if self.config.objective.normalize == "weights":
            return (float(self.pairs.weight[rows].sum()) or 1.0) * self._share_of_pairs
        return float(len(rows)) * self._share_of_pairs

    @cached_property
    def _share_of_pairs(self) -> float:
        """The part of all rows, or of their weights, that is not of samples of the reference."""
        present = self.pairs.present
        if present is None or not self.loss.mixture.takes_samples:
            return 1.0
        by_weight = self.config.objective.normalize == "weights"
        counts = self.pairs.weight if by_weight else np.ones(len(self.pairs))
        return float(counts[present.all(axis=1)].sum() / counts.sum())


def batches_ahead(job: Job, steps: Iterable[np.ndarray]) -> Iterator[tuple[MicroBatch, FlatBatch]]:
    """This rank's micro-batches of all `steps`, one step after the other, on the device.

    The next ones are made and copied while this one is computed, across the end of a step too. An empty one runs the
    shortest pair, because every rank of a sharded policy must run.

    Args:
        steps: int64, the rows of `job.pairs` that each step sees over all ranks.
    """
    optim, tokens = job.config.optim, job.policy.tokens(job.pairs)
    shortest = np.array([job.pairs.tokens.argmin()])
    ref_tokens = job.loss.mixture.reads(Reads.SHARED_TOKENS)

    def make(micro_batch: MicroBatch) -> FlatBatch:
        rows = micro_batch.rows if len(micro_batch.rows) else shortest
        return job.policy.ready(flat_batch(job.pairs, rows, ref_tokens=ref_tokens))

    def dealt() -> Iterator[MicroBatch]:
        for rows in steps:
            of_ranks = micro_batches(
                rows,
                tokens,
                budget=optim.tokens_per_batch,
                max_pairs=optim.max_pairs_per_batch,
                ranks=job.world.data_size,
            )
            yield from as_micro_batches(of_ranks[job.world.data_rank])

    return made_ahead(make, dealt(), job.world.device, job.config.data.workers)


def one_step(batches: Iterator[tuple[MicroBatch, FlatBatch]]) -> Iterator[tuple[MicroBatch, FlatBatch]]:
    """The micro-batches of the next step; later ones stay where they are."""
    for micro_batch, batch in batches:
        yield micro_batch, batch
        if not micro_batch.left:
            return
