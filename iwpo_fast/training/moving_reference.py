"""A reference that follows the policy: TR-DPO (Gorbatovski et al., arXiv 2404.09656).

Every τ steps its weights become α · policy + (1 - α) · reference. In between it stands still, so that its log-probs of
all pairs of the next τ steps are computed at once, as the reference pass computes those of the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.config import ReferenceSyncConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.ragged import Ragged, positions_of
from iwpo_fast.models.reference import logps_as_it_is
from iwpo_fast.training.job import Job


class MovingReference:
    """The reference of a run whose reference moves.

    Made before the first step, from the policy as it is then; a checkpoint that is loaded into `weights` puts it where
    it was.

    Attributes:
        weights: what the reference has in the place of each trained parameter.
    """

    def __init__(self, config: ReferenceSyncConfig, parameters: Mapping[str, Tensor]) -> None:
        self.config = config
        self.weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def moves_before(self, step: int) -> bool:
        """Whether it moves before this step, counted from 0."""
        return step > 0 and step % self.config.steps == 0

    def until(self, step: int) -> int:
        """The step, counted from 0, before which it moves next."""
        return (step // self.config.steps + 1) * self.config.steps

    @torch.no_grad()
    def moved(self, job: Job, step: int) -> Job:
        """Move, and know its log-probs of the pairs of the steps from `step` until the next move. All ranks call it."""
        for name, parameter in job.policy.trainable_parameters().items():
            self.weights[name].lerp_(parameter.detach(), self.config.alpha)
        return self._known(job, step)

    def resumed(self, job: Job, step: int) -> Job:
        """Know its log-probs as after the last move of a run that has done `step` steps. All ranks call it.

        The pass is that of the whole window again, because the last bits of a log-prob depend on its batch.
        """
        begin = max(step - 1, 0) // self.config.steps * self.config.steps
        return self._known(job, begin) if begin else job

    def _known(self, job: Job, begin: int) -> Job:
        steps = range(begin, min(self.until(begin), job.steps))
        rows = np.unique(np.concatenate([job.rows_of_step(step) for step in steps]))
        with self._in_the_policy(job):
            pairs = _with_logps(job, job.pairs, rows)
            held_out = job.held_out and _with_logps(job, job.held_out, np.arange(len(job.held_out)))
        return replace(job, pairs=pairs, held_out=held_out)

    @contextmanager
    def _in_the_policy(self, job: Job) -> Iterator[None]:
        """The policy has the reference's weights inside."""
        job.policy.release()
        self._exchange(job)
        try:
            yield
        finally:
            job.policy.release()
            self._exchange(job)

    @torch.no_grad()
    def _exchange(self, job: Job) -> None:
        for name, parameter in job.policy.trainable_parameters().items():
            before = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(before)


def _with_logps(job: Job, pairs: Pairs, rows: np.ndarray) -> Pairs:
    """The pairs with log-probs of `rows` under the policy as it is; those of the others stay."""
    assert pairs.ref_logps is not None, "the objective reads a reference"
    budget, workers = job.config.optim.tokens_per_batch, job.config.data.workers
    sums, tokens = logps_as_it_is(job.policy, pairs.take(rows), job.world, tokens_per_batch=budget, workers=workers)
    ref_logps = pairs.ref_logps.copy()
    ref_logps[rows] = sums
    if pairs.ref_token_logps is None:
        return replace(pairs, ref_logps=ref_logps)
    chosen, rejected = (_scattered(b, rows, n) for b, n in zip(pairs.ref_token_logps, tokens, strict=True))
    return replace(pairs, ref_logps=ref_logps, ref_token_logps=(chosen, rejected))


def _scattered(before: Ragged, rows: np.ndarray, new: Ragged) -> Ragged:
    values = before.values.copy()
    values[positions_of(before.offsets[rows], before.lengths[rows])] = new.values
    return Ragged(values, before.offsets)
