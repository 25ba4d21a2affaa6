"""What was not finite first: a step that was not taken is done again, slowly, and its tensors are looked at."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from iwpo_fast.annotators.by_type import of_each_type
from iwpo_fast.finite import backward, local_part, not_finite
from iwpo_fast.models.sharding import in_lockstep
from iwpo_fast.optimisation import seed_step
from iwpo_fast.peers import Agreed
from iwpo_fast.training.checkpoint import TrainState
from iwpo_fast.training.job import Job, batches_ahead
from iwpo_fast.training.self_test import Place
from iwpo_fast.training.step_constants import step_constants

NAMED = 3
"""Pairs that a sentence names; the others are counted."""

ADVICE = "lower optim.lr, or look at these pairs; no step was taken with it, and earlier checkpoints are whole."


class _Found(NamedTuple):
    """Something that is not finite, and the pairs with which it came about."""

    what: str
    pairs: list[int]


def diverged(job: Job, state: TrainState, step: int, place: Place) -> Agreed:
    """The sentence about a step, counted from 1, whose gradient was not finite. All ranks must call it.

    Neither it nor a later one has been taken, so its loss is computed again, from the weights that it had.

    Args:
        state: of the run, with the running means of the objective.
    """
    bad = job.world.gathered(not_finite(job.policy.trainable_parameters()))
    if names := [name for of_rank in bad for name in of_rank]:
        return Agreed(
            f"at step {step} {names[0]} is not finite, after the update of the step before: lower optim.lr or "
            "optim.weight_decay; earlier checkpoints are whole."
        )
    everywhere = job.world.gathered(_first_found(job, copy.deepcopy(state.objective), step - 1))
    found = next((found for found in everywhere if found is not None), None)
    if found is None:
        drawn = "" if job.sampled_kl is None else "the KL of what the policy drew (sampled_kl), or "
        found = _Found(f"{drawn}the norm of the gradient", [int(row) for row in job.rows_of_step(step - 1)])
    return Agreed(f"at step {step} {found.what} is not finite, with {_named(found.pairs, place)}: {ADVICE}")


def check_update(job: Job, optimizer: torch.optim.Optimizer, state: TrainState, place: Place) -> None:
    """Raise ValueError if updates made a weight or a moment not finite; before anything is saved, on all ranks."""
    parameters = job.policy.trainable_parameters()
    kept: dict[str, Tensor] = dict(parameters)
    for name, parameter in parameters.items():
        moments = optimizer.state.get(parameter, {})
        kept |= {f"{key} of {name}": value for key, value in moments.items() if isinstance(value, Tensor)}
    names = [name for of_rank in job.world.gathered(not_finite(kept)) for name in of_rank]
    if names:
        pairs = [int(row) for row in job.rows_of_step(state.step - 1)]
        raise Agreed(
            f"the update of step {state.step} made {names[0]} not finite, with {_named(pairs, place)}: lower optim.lr "
            "or optim.weight_decay; nothing of it is saved, and earlier checkpoints are whole."
        )


def _first_found(job: Job, objective: dict[str, dict[str, float]], step: int) -> _Found | None:
    """What is first not finite in this rank's part of a step, counted from 0. Every rank goes through all of it."""
    rows = job.rows_of_step(step)
    seed_step(job.config.seed, step, job.world.rank)
    job.policy.train()
    of_step = list(batches_ahead(job, [rows]))
    constants_of = step_constants(job, rows, of_step, objective, np.random.default_rng([job.config.seed, step]))
    found: _Found | None = None
    with _gradients(job) as gradients:
        for some, batch in of_each_type(job.policy, in_lockstep(job.policy, of_step)):
            tokens = job.loss.token_logps(job.policy, batch)
            finite = job.loss.sequence_logps(tokens, batch).isfinite().all(dim=1).cpu().numpy()
            loss = job.loss(tokens, batch, job.denominator(rows), constants_of(some)).loss
            what = "the loss" if finite.all() else "the log-prob of a completion"
            if found is None and not (finite.all() and bool(loss.isfinite())):
                found = _Found(what, [int(row) for row in (some if finite.all() else some[~finite])])
            backward(loss)
            if found is None and (what := _not_finite_of(gradients())):
                found = _Found(what, [int(row) for row in some])
    return found


def _not_finite_of(gradients: Mapping[str, Tensor]) -> str:
    """The first gradient that is not finite, or their norm, which overflows before they do; empty if all is finite."""
    if names := not_finite(gradients):
        return f"the gradient of {names[0]}"
    norm = get_total_norm([local_part(gradient) for gradient in gradients.values()])
    return "" if bool(norm.isfinite()) else "the norm of the gradient"


@contextmanager
def _gradients(job: Job) -> Iterator[Callable[[], Mapping[str, Tensor]]]:
    """Gives the gradients that there are by then, and forgets them afterwards."""
    parameters = job.policy.trainable_parameters()
    yield lambda: {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for parameter in parameters.values():
        parameter.grad = None


def _named(pairs: list[int], place: Place) -> str:
    """A few of the pairs by their places, in the order of the data, and how many there are beside them."""
    shown = [place(pair) for pair in sorted(pairs)[:NAMED]]
    left = len(pairs) - len(shown)
    if left:
        shown.append(f"{left} more")
    words = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"the pair of {words}" if len(pairs) == 1 else f"the pairs of {words}"
