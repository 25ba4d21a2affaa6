"""What an objective knows of the whole optimiser step, before the loss of its first micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.data.tensor_dataclass import copied_to
from iwpo_fast.models.sharding import in_lockstep
from iwpo_fast.objectives.registry import Constants, State
from iwpo_fast.training.job import Batches, Job

ConstantsOf = Callable[[np.ndarray], Mapping[str, Constants]]
"""From rows of a micro-batch [P] to the constants of these pairs [P], on the device, by objective and name."""


@torch.no_grad()
def step_constants(
    job: Job, rows: np.ndarray, batches: Batches, state: dict[str, State], rng: np.random.Generator | None
) -> ConstantsOf:
    """Constants of the B pairs of a step, the same on every rank.

    Pairs of weight 0 have no part in them. Statistics that compare log-probs cost one more forward pass over the
    step, without dropout; the others nothing.

    Args:
        rows: int64 [B], pairs of the step over all ranks.
        batches: this rank's micro-batches of them; read only where `mixture.needs_step_logps`.
        state: running means of the objective, changed in place.
        rng: of the random numbers that a statistic draws; None in an evaluation.
    """
    mixture, device = job.loss.mixture, job.world.device
    if not mixture.has_statistics:
        return lambda _: {}
    counted = np.flatnonzero(job.pairs.weight[rows] != 0)
    if not len(counted):  # The losses of this step are unused, and no running mean may see it.
        counted, state = np.arange(len(rows)), {}
    order = np.argsort(rows)

    def places_of(some: np.ndarray) -> Tensor:
        """int64 [P], where some of the rows stand in the step."""
        return copied_to(device, order[np.searchsorted(rows, some, sorter=order)])

    logps = _step_logps(job, len(rows), batches, places_of)
    places = copied_to(device, counted)
    pair = job.loss.step_pair(job.pairs, rows[counted], logps[places])
    values = {
        name: {key: _spread(value, places, len(rows)) for key, value in part.items()}
        for name, part in mixture.constants(pair, state, rng).items()
    }

    def constants_of(some: np.ndarray) -> Mapping[str, Constants]:
        places = places_of(some)
        return {name: {key: value[places] for key, value in part.items()} for name, part in values.items()}

    return constants_of


def _step_logps(job: Job, pairs: int, batches: Batches, places_of: Callable[[np.ndarray], Tensor]) -> Tensor:
    """float64 [B, 2], log-probs of all ranks' pairs, chosen and rejected; 0 where no statistic reads them."""
    logps = torch.zeros(pairs, 2, dtype=torch.float64, device=job.world.device)
    if not job.loss.mixture.needs_step_logps:
        return logps
    was_training = job.policy.training
    job.policy.eval()
    for rows, batch in in_lockstep(job.policy, batches):
        logps[places_of(rows)] = job.loss.sequence_logps(job.loss.token_logps(job.policy, batch), batch)
    job.policy.train(was_training)
    return job.world.sum_(logps)


def _spread(values: Tensor, places: Tensor, pairs: int) -> Tensor:
    """[B] with `values` at the pairs that count; the first of them stands in elsewhere: those losses are unused."""
    return values[:1].repeat(pairs).index_copy(0, places, values)
