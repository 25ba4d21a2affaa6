"""Step 0: the policy is the reference, so every log-prob must agree, however pairs are dealt into micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.data.order import micro_batches
from iwpo_fast.training.job import Job

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.5}
"""Largest difference of one token's log-prob that rounding explains: other batches are summed in another order."""

SIDES = ("chosen", "rejected")

Place = Callable[[int], str]
"""Says where a pair stands in the user's data, given its number."""


class Completion(NamedTuple):
    """A completion of a pair, by the pair's number and the side."""

    pair: int
    side: int


class Measured(NamedTuple):
    """Rows of the micro-batches that were run, and float64 log-probs of the tokens of every completion in each."""

    rows: list[np.ndarray]
    logps: list[dict[Completion, np.ndarray]]


def measure(job: Job, place: Place) -> Measured:
    """Run the policy on some pairs, dealt into micro-batches in several ways.

    These are the longest and the shortest pair, each alone and both together, and the first micro-batch of this rank.

    Raises:
        ValueError: a log-prob depends on what else is in the micro-batch, by more than rounding.
    """
    job = replace(job, pairs=replace(job.pairs, between=None))
    rows = _micro_batches(job)
    logps = [_logps(job, flat_batch(job.pairs, some)) for some in rows]
    known: dict[Completion, np.ndarray] = {}
    for found in logps:
        _check_same_everywhere(job, known, found, place)
        known |= found
    return Measured(rows, logps)


def check_policy_is_reference(
    job: Job, measured: Measured, tokenizer: PreTrainedTokenizerBase, place: Place
) -> tuple[float, int]:
    """Compare the policy's log-probs with the reference's.

    Returns:
        The largest difference in nats, of a token, or of a mean over tokens where the data brought only sums; and the
        number of pairs.

    Raises:
        ValueError: they differ by more than rounding; names the first token or completion that does.
    """
    pairs = replace(job.pairs, between=None)
    differences = [
        _check_reference(job, flat_batch(pairs, rows, ref_tokens=True), logps, tokenizer, place)
        for rows, logps in zip(measured.rows, measured.logps, strict=True)
    ]
    return max(differences), len(np.unique(np.concatenate(measured.rows)))


def rounding(dtype: torch.dtype) -> str:
    """What is normal in a type whose rounding shows, for the line of the self-test; nothing for the others."""
    if TOLERANCE[dtype] < 0.01:
        return ""
    return f"; in {str(dtype).removeprefix('torch.')} up to {TOLERANCE[dtype]} nats a token are rounding"


def _micro_batches(job: Job) -> list[np.ndarray]:
    """int64 each, rows of the micro-batches to compare; as many on every rank."""
    tokens, optim = job.pairs.tokens, job.config.optim
    extremes = np.unique([tokens.argmax(), tokens.argmin()])
    step = micro_batches(
        job.rows_of_step(0),
        job.policy.tokens(job.pairs),
        budget=optim.tokens_per_batch,
        max_pairs=optim.max_pairs_per_batch,
        ranks=job.world.data_size,
    )
    first = step[job.world.data_rank][0]
    return [*(extremes[i : i + 1] for i in range(len(extremes))), extremes, first if len(first) else extremes]


def _logps(job: Job, batch: FlatBatch) -> dict[Completion, np.ndarray]:
    """float64, log-probs of the tokens of each completion under the policy as it is, without dropout."""
    was_training = job.policy.training
    job.policy.eval()
    with torch.no_grad():
        logps = job.policy(batch.to(job.world.device)).double().cpu().numpy()
    job.policy.train(was_training)
    return dict(zip(_completions(batch), np.split(logps, batch.segments[1:-1].numpy()), strict=True))


def _completions(batch: FlatBatch) -> Iterable[Completion]:
    """The completions of a batch, in its order."""
    return (Completion(pair, side) for side in range(2) for pair in batch.rows.tolist())


def _check_same_everywhere(
    job: Job, known: dict[Completion, np.ndarray], found: dict[Completion, np.ndarray], place: Place
) -> None:
    for completion in known.keys() & found.keys():
        changes = np.abs(known[completion] - found[completion]).max(initial=0.0)
        if not changes <= TOLERANCE[job.policy.compute_dtype]:
            padded = job.policy.layout == "padded"
            remedy = "lower data.max_length, or give another model" if padded else "set model.batch_layout to padded"
            raise ValueError(
                f"a log-prob of {_name(completion, place)} changes by {changes:.3g} nats with what else is in its "
                f"micro-batch, because {type(job.policy.causal_lm).__name__} looks beyond a sequence, so that policy "
                f"and reference would differ: {remedy}."
            )


def _check_reference(
    job: Job, batch: FlatBatch, found: dict[Completion, np.ndarray], tokenizer: PreTrainedTokenizerBase, place: Place
) -> float:
    """The largest difference from the reference; raises ValueError for one that rounding does not explain."""
    tolerance = TOLERANCE[job.policy.compute_dtype]
    logps = np.concatenate(list(found.values()))
    if batch.ref_token_logps is not None:
        differences = np.abs(logps - batch.ref_token_logps.numpy())
    else:
        assert batch.ref_logps is not None
        sums = np.array([logps[start:end].sum() for start, end in pairwise(batch.segments.tolist())])
        differences = np.abs(sums - batch.ref_logps.numpy()) / batch.segments.diff().clamp(min=1).numpy()
    largest = float(differences.max())
    wrong = np.flatnonzero(~(differences <= tolerance))
    if len(wrong):
        raise ValueError(
            f"policy and reference differ before training by {largest:.3g} nats, where rounding in "
            f"{str(job.policy.compute_dtype).removeprefix('torch.')} explains {tolerance:g}, first at "
            f"{_where(batch, int(wrong[0]), tokenizer, place)}: use reference log-probs of this very model, or set "
            "self_test=false if the difference is meant."
        )
    return largest


def _where(batch: FlatBatch, i: int, tokenizer: PreTrainedTokenizerBase, place: Place) -> str:
    """What entry i of the differences belongs to: a token if the reference of tokens is known, else a completion."""
    by_token = batch.ref_token_logps is not None
    sequence = int(torch.searchsorted(batch.segments, i, right=True)) - 1 if by_token else i
    side, pair = divmod(sequence, batch.pairs)
    completion = _name(Completion(int(batch.rows[pair]), side), place)
    if not by_token:
        return f"{completion}, from the column ref_{SIDES[side]}_logps"
    token = tokenizer.convert_ids_to_tokens(int(batch.labels[i]))
    return f"token {i - int(batch.segments[sequence])} ({token!r}) of {completion}"


def _name(completion: Completion, place: Place) -> str:
    return f"the {SIDES[completion.side]} completion of {place(completion.pair)}"
