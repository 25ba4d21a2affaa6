"""One step, and one evaluation, over the micro-batches of all ranks."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.annotators.by_type import of_each_type
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.order import MicroBatch
from iwpo_fast.finite import backward
from iwpo_fast.models.sharding import in_lockstep
from iwpo_fast.optimisation import update
from iwpo_fast.training.checkpoint import TrainState
from iwpo_fast.training.held_out_margins import Margins, area_under_curve
from iwpo_fast.training.job import Job, batches_ahead, one_step
from iwpo_fast.training.metrics import PreferenceMetrics, held_out_metrics
from iwpo_fast.training.step_constants import step_constants


def train_step(
    job: Job,
    rows: np.ndarray,
    batches: Iterator[tuple[MicroBatch, FlatBatch]],
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    metrics: PreferenceMetrics,
) -> Tensor:
    """One update on the loss over `rows`, the pairs of all ranks and micro-batches; the norm [] of its gradient.

    Does not synchronise with the device, except for `beta_dpo`, whose statistics the host computes, and for what models
    of transformers do with padding masks.

    Args:
        batches: this rank's micro-batches, those of `rows` next.
        state: its `step` is the number of this one, from 0; its running means of the objective change in place.
    """
    if job.sampled_kl is not None:
        job.sampled_kl.draw_if_due(state)
    policy, loss, parameters = job.policy.train(), job.loss, job.policy.trainable_parameters().values()
    of_step = list(one_step(batches)) if loss.mixture.needs_step_logps else one_step(batches)  # a list is read twice
    rng = np.random.default_rng([job.config.seed, state.step])
    constants_of = step_constants(job, rows, of_step, state.objective, rng)
    denominator, tokens = job.denominator(rows), job.pairs.tokens
    for some, batch in of_each_type(policy, in_lockstep(policy, of_step)):
        logps = loss.token_logps(policy, batch)
        output = loss(logps, batch, denominator, constants_of(some))
        aux_loss = None if job.router is None else job.router(batch)
        backward(_with_router(job, output.loss, aux_loss, float(tokens[some].sum() / tokens[rows].sum())))
        metrics.add(output.sums, aux_loss, int(tokens[some].sum()), batch.present)
    for drawn_loss, kl in () if job.sampled_kl is None else job.sampled_kl.losses(state):
        backward(drawn_loss)
        metrics.add_drawn(kl)
    job.world.sum_gradients(parameters)
    return update(optimizer, parameters, job.config.optim)


@torch.no_grad()
def evaluate(job: Job, state: TrainState) -> tuple[dict[str, float], Margins]:
    """Exact metrics over all pairs, named `eval_...`, and the margins of each; for the objective they are one step."""
    rows, margins = np.arange(len(job.pairs)), Margins.empty(job.pairs, job.world.device)
    metrics, policy, loss = metrics_of(job), job.policy.eval(), job.loss
    constants_of = step_constants(job, rows, batches_ahead(job, [rows]), copy.deepcopy(state.objective), None)
    for some, batch in of_each_type(policy, in_lockstep(policy, batches_ahead(job, [rows]))):
        logps = loss.token_logps(policy, batch)
        output = loss(logps, batch, float(len(rows)), constants_of(some))
        margins.put(batch.rows, loss.margins(logps, batch))
        aux_loss = None if job.router is None else job.router(batch)
        metrics.add(output.sums, aux_loss, int(job.pairs.tokens[some].sum()), batch.present)
    found, margins = metrics.compute(job.world), Margins(*map(job.world.sum_, margins))
    if job.pairs.present is not None and (area := area_under_curve(margins, job.pairs.present)) is not None:
        found["rewards/auc"] = area
    return held_out_metrics(found), margins


def metrics_of(job: Job) -> PreferenceMetrics:
    router = 0.0 if job.router is None else job.router.coefficient
    unpaired = job.pairs.present is not None and not job.loss.mixture.takes_samples
    normalize = job.config.objective.normalize
    drawn = 0.0 if job.sampled_kl is None else job.sampled_kl.settings.coefficient
    types, device = job.policy.types or 1, job.world.device
    return PreferenceMetrics(
        device, normalize=normalize, router=router, unpaired=unpaired, sampled_kl=drawn, types=types
    )


def _with_router(job: Job, loss: Tensor, aux_loss: Tensor | None, share: float) -> Tensor:
    """The loss of a micro-batch with the router's, which counts by the micro-batch's share of the step's tokens."""
    return loss if job.router is None or aux_loss is None else loss + job.router.coefficient * share * aux_loss
