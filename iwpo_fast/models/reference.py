"""The reference, which is the policy before training: one pass over every response, or its cached results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from iwpo_fast.data.ahead import Workers, made_ahead
from iwpo_fast.data.batch import FlatBatch, flat_responses
from iwpo_fast.data.columns import REFERENCE
from iwpo_fast.data.context import is_trained
from iwpo_fast.data.order import MicroBatch, SharedPrompts, as_micro_batches, micro_batches
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged, positions_of, rows_at_once
from iwpo_fast.data.unique import Responses
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.reference_cache import load_logps, save_logps
from iwpo_fast.models.sharding import in_lockstep
from iwpo_fast.progress import Progress, progress
from iwpo_fast.world import World

Inside = Callable[[Policy], AbstractContextManager[None]]


def with_reference(
    policy: Policy,
    pairs: Pairs,
    world: World,
    cache_dir: Path,
    *,
    tokens_per_batch: int,
    workers: Workers = "auto",
) -> Pairs:
    """The pairs with their log-probs under the model as it is before training; a LoRA policy's adapter is off.

    Responses that are in several pairs, as where a prompt has more than two, or a pair is there more than once, are
    computed once; so are candidates. `ref_chosen_logps` and `ref_rejected_logps` columns of the data are taken as they
    are.

    Args:
        cache_dir: where results are found again.
        tokens_per_batch: tokens that one batch may hold; a single longer response runs alone.
        workers: `DataConfig.workers`.
    """
    if pairs.columns.keys() >= set(REFERENCE):
        sums = np.stack([pairs.columns[name] for name in REFERENCE], axis=1)
        return replace(pairs, ref_logps=sums.astype(np.float32))
    values = load_logps(cache_dir, policy, pairs)
    anyone_lacks_them = world.largest(values is None)
    if values is None or anyone_lacks_them:  # then all compute, because they wait for one another
        values = _compute(policy, pairs, world, tokens_per_batch, workers, as_reference)
        if world.is_main:
            save_logps(cache_dir, policy, pairs, values)
    world.barrier()
    tokens = Ragged(values["chosen"], pairs.chosen.offsets), Ragged(values["rejected"], pairs.rejected.offsets)
    sums = np.stack([_row_sums(part) for part in tokens], axis=1)
    candidates = pairs.candidates
    if candidates is not None:
        of_candidates = _row_sums(Ragged(values["candidates"], candidates.completions.offsets))
        candidates = replace(candidates, ref_logps=of_candidates.astype(np.float32))
    return replace(pairs, ref_logps=sums.astype(np.float32), ref_token_logps=tokens, candidates=candidates)


def with_reference_of_all(
    policy: Policy,
    pairs: Pairs,
    world: World,
    cache_dir: Path,
    *,
    tokens_per_batch: int,
    workers: Workers = "auto",
) -> Pairs:
    """As `with_reference`, with the log-probs of the completions between those of the pairs too."""
    assert pairs.between is not None and pairs.candidates is None
    asked = replace(pairs, candidates=pairs.between.as_candidates())
    known = with_reference(policy, asked, world, cache_dir, tokens_per_batch=tokens_per_batch, workers=workers)
    assert known.candidates is not None
    return replace(known, candidates=None, between=replace(pairs.between, ref_logps=known.candidates.ref_logps))


def logps_as_it_is(
    policy: Policy, pairs: Pairs, world: World, *, tokens_per_batch: int, workers: Workers = "auto"
) -> tuple[np.ndarray, tuple[Ragged, Ragged]]:
    """float32 [P, 2] log-probs of the pairs under the policy as it is now, its adapter on, and those of their tokens.

    They are kept nowhere. Arguments as of `with_reference`; all ranks call it.
    """
    values = _compute(policy, pairs, world, tokens_per_batch, workers, as_it_is)
    tokens = Ragged(values["chosen"], pairs.chosen.offsets), Ragged(values["rejected"], pairs.rejected.offsets)
    return np.stack([_row_sums(part) for part in tokens], axis=1).astype(np.float32), tokens


def put_values(values: np.ndarray, responses: Responses, rows: np.ndarray, logps: np.ndarray) -> None:
    """Move the log-probs [N] of the batch of these responses to their places among those of all their tokens.

    Tokens that are context alone have none, and keep what is there.
    """
    completions = responses.completions
    places = positions_of(completions.offsets[rows], completions.lengths[rows])
    values[places[is_trained(completions.values[places])]] = logps


def _compute(
    policy: Policy, pairs: Pairs, world: World, tokens_per_batch: int, workers: Workers, inside: Inside
) -> dict[str, np.ndarray]:
    responses = Responses.of(pairs)
    values = np.zeros(len(responses.completions.values), np.float32)
    batches = pass_batches(policy, responses, tokens_per_batch, world)[world.data_rank]
    with inside(policy), response_bar("reference log-probs", sum(map(len, batches)), world) as bar:
        for rows, batch in run_batches(policy, responses, batches, world, workers):
            put_values(values, responses, rows, policy(batch).float().cpu().numpy())
            bar.update(len(rows))
    # Each rank filled the places of its own responses and left zeros elsewhere, so the sum joins them.
    return in_the_order_of(pairs, responses, world.sum_(torch.from_numpy(values).to(world.device)).cpu().numpy())


def in_the_order_of(pairs: Pairs, responses: Responses, values: np.ndarray) -> dict[str, np.ndarray]:
    """What `load_logps` gives, from the log-probs of all tokens of the responses."""
    others = {} if pairs.candidates is None else {"candidates": responses.by_candidate(values)}
    return responses.by_pair(values) | others


def _row_sums(part: Ragged) -> np.ndarray:
    """float64 sum of each row, also of empty ones."""
    sums, before = np.empty(len(part)), 0.0
    for some in rows_at_once(len(part)):  # one sum of all that comes before, as if it were made at once
        offsets = part.offsets[some.start : some.stop + 1]
        values = part.values[offsets[0] : offsets[-1]]
        totals = np.cumsum(np.concatenate([[before], values]), dtype=np.float64)
        sums[some] = np.diff(totals[offsets - offsets[0]])
        before = totals[-1]
    return sums


def pass_batches(policy: Policy, responses: Responses, tokens_per_batch: int, world: World) -> list[list[np.ndarray]]:
    """The responses in each batch of each rank; those to one prompt together if the policy shares prompts."""
    rows, tokens, of_prompt = responses.to_run, responses.completions.lengths, responses.prompts.lengths
    shared = SharedPrompts(responses.prompt_of, of_prompt) if policy.layout == "shared" else None
    if shared is None:
        tokens = tokens + of_prompt[responses.prompt_of]
    return micro_batches(rows, tokens, budget=tokens_per_batch, ranks=world.data_size, shared=shared)


@contextlib.contextmanager
def as_reference(policy: Policy) -> Iterator[None]:
    """Let the policy be its reference while the body runs: evaluation mode, no gradients, adapter off.

    An adapter that was there before training stays on, so this is for before training then, as where all weights train.
    """
    is_base = policy.has_adapter and not policy.continues_adapter
    with as_it_is(policy), policy.disable_adapter() if is_base else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def as_it_is(policy: Policy) -> Iterator[None]:
    """Evaluation mode and no gradients while the body runs."""
    was_training = policy.training
    policy.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        policy.train(was_training)


def run_batches(
    policy: Policy, responses: Responses, batches: Sequence[np.ndarray], world: World, workers: Workers = "auto"
) -> Iterator[tuple[np.ndarray, FlatBatch]]:
    """Responses and batch of each of this rank's batches, to be run inside `as_reference`.

    Args:
        batches: int64, responses of each; for a sharded policy as many on every rank, some of them empty.
        workers: as of `made_ahead`.
    """

    there = responses.to_run
    shortest = there[[responses.completions.lengths[there].argmin()]]

    def make(micro_batch: MicroBatch) -> FlatBatch:
        rows = micro_batch.rows if len(micro_batch.rows) else shortest
        return policy.ready(flat_responses(responses, rows))

    return in_lockstep(policy, made_ahead(make, as_micro_batches(batches), world.device, workers))


def response_bar(what: str, total: int, world: World, *, done: int = 0) -> Progress:
    """The progress of this rank's responses, `done` of which were computed before."""
    return progress(what, total, "response", initial=done, shown=world.is_main)
