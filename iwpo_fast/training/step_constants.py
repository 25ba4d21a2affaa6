"""What an objective knows of the whole optimiser step, before the loss of its first micro-batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.movable import copied_to
from iwpo_fast.models.sharding import taking_turns
from iwpo_fast.objectives.registry import Constants, State
from iwpo_fast.training.batches import Batches
from iwpo_fast.training.job import Job


@dataclass(frozen=True)
class StepConstants:
    """Constants of the B pairs of a step, on the device, where those of a batch are found too.

    Attributes:
        rows: int64 [B], the rows of the step in ascending order.
        places: int64 [B], where each of them stands in the step.
        values: [B] each, in the order of the step, by objective and name.
    """

    rows: Tensor
    places: Tensor
    values: Mapping[str, Constants] = field(default_factory=dict)

    @classmethod
    def none_yet(cls, rows: np.ndarray, device: torch.device) -> StepConstants:
        places = np.argsort(rows)
        return cls(copied_to(device, rows[places]), copied_to(device, places))

    def places_of(self, batch: FlatBatch) -> Tensor:
        """int64 [P], where the pairs of a batch stand in the step."""
        return self.places[torch.searchsorted(self.rows, batch.rows)]

    def of(self, batch: FlatBatch) -> Mapping[str, Constants]:
        """[P] each, those of the pairs of a batch."""
        if not self.values:
            return {}
        places = self.places_of(batch)
        return {name: {key: value[places] for key, value in part.items()} for name, part in self.values.items()}


@torch.no_grad()
def step_constants(
    job: Job, rows: np.ndarray, batches: Batches, state: dict[str, State], rng: np.random.Generator | None
) -> StepConstants:
    """Constants of the B pairs of a step, the same on every rank.

    Pairs of weight 0 have no part in them. Statistics that compare log-probs cost one more forward pass over the
    step, without dropout; the others nothing.

    Args:
        rows: int64 [B], pairs of the step over all ranks.
        batches: this rank's micro-batches of them; read only where `mixture.needs_step_logps`.
        state: running means of the objective, changed in place.
        rng: of the random numbers that a statistic draws; None in an evaluation.
    """
    loss, policy, world = job.loss, job.policy, job.world
    none_yet = StepConstants.none_yet(rows, world.device)
    if not loss.mixture.has_statistics:
        return none_yet
    counted = np.flatnonzero(job.pairs.weight[rows] != 0)
    if not len(counted):  # Nobody reads the losses of this step, and no running mean may see it.
        counted, state = np.arange(len(rows)), {}
    logps = torch.zeros(len(rows), 2, dtype=torch.float64, device=world.device)
    if loss.mixture.needs_step_logps:
        was_training = policy.training
        policy.eval()
        for _, batch in taking_turns(policy, batches):
            logps[none_yet.places_of(batch)] = loss.sequence_logps(loss.token_logps(policy, batch), batch)
        policy.train(was_training)
        world.sum_(logps)
    places = copied_to(world.device, counted)
    step = loss.whole_step(job.pairs, job.reference, rows[counted], logps[places])
    found = loss.mixture.constants(step, state, rng)
    values = {
        name: {key: _spread(value, places, len(rows)) for key, value in part.items()} for name, part in found.items()
    }
    return StepConstants(none_yet.rows, none_yet.places, values)


def _spread(values: Tensor, places: Tensor, pairs: int) -> Tensor:
    """[B] with `values` at the pairs that count; the first of them stands in elsewhere: those losses are unused."""
    return values[:1].repeat(pairs).index_copy(0, places, values)
