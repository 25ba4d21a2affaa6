"""Reference log-probs that the data bring, compared with those of the model before training."""

from __future__ import annotations

import numpy as np
import torch

from iwpo_fast.data import Pairs, Rows
from iwpo_fast.data.columns import REFERENCE
from iwpo_fast.models.reference import as_reference
from iwpo_fast.models.sharding import in_lockstep
from iwpo_fast.training.job import Job, batches_ahead
from iwpo_fast.training.self_test import TOLERANCE

CHECKED = 2_000
"""Pairs that are compared at most: a fault of one row in 500 is among them with a probability of 98 %."""

HALF = (torch.bfloat16, torch.float16)


def reference_lines(job: Job, rows: Rows, held_out_rows: Rows | None) -> list[str]:
    """What was found of the log-probs that the data bring, if the objective reads them; nothing where they bring none.

    All ranks call it.

    Raises:
        ValueError: a row, to train on or held out, has log-probs of another model or another text.
    """
    lines = []
    for part, read in ((job, rows), (job.evaluation, held_out_rows)):
        if part is None or read is None or part.pairs.ref_logps is None or REFERENCE[0] not in part.pairs.columns:
            continue
        if job.config.self_test:
            lines.append(check_reference_columns(part, read))
        else:
            lines.append(f"the reference log-probs of {read.source} are taken as they are, because self_test is false")
    return lines


def refuse_columns(job: Job) -> None:
    """Raise ValueError if the data bring log-probs of one reference, and the configuration names another."""
    for pairs in filter(None, (job.pairs, job.held_out)):
        if REFERENCE[0] in pairs.columns:
            raise ValueError(
                f"model.reference is {job.config.model.reference}, but the data bring {' and '.join(REFERENCE)}, which "
                "would take its place: leave one of the two out."
            )


def check_reference_columns(job: Job, rows: Rows) -> str:
    """Run pairs of the job, all of them or `CHECKED` drawn at random, and compare. All ranks call it.

    Args:
        rows: what the pairs were read from.

    Returns:
        What was compared, for people.

    Raises:
        ValueError: a row has log-probs of another model or another text.
    """
    total = len(job.pairs)
    some = np.arange(total)
    if total > CHECKED:
        some = np.sort(np.random.default_rng(job.config.seed).choice(total, CHECKED, replace=False))
    own = own_logps(job, some)
    largest = refuse_stale(job.pairs.take(some), own[some], rows, job.policy.compute_dtype)
    which = f"all {total:,} pairs" if len(some) == total else f"{len(some):,} of {total:,} pairs, drawn at random"
    return f"{' and '.join(REFERENCE)} of {rows.source} agree with the model to {largest:.1e} nats a token on {which}"


def own_logps(job: Job, some: np.ndarray) -> np.ndarray:
    """float64 [P, 2]: log-probs of the completions under the policy as it is before training; 0 for other pairs.

    Args:
        some: int64, the pairs to run.
    """
    policy, world = job.policy, job.world
    found = torch.zeros(len(job.pairs), 2, dtype=torch.float64, device=world.device)
    with as_reference(policy):
        for _, batch in in_lockstep(policy, batches_ahead(job, [some])):
            sums = torch.segment_reduce(policy(batch).double(), "sum", offsets=batch.segments, initial=0.0)
            found[batch.rows] = sums.reshape(2, -1).T
    return world.sum_(found).cpu().numpy()


def refuse_stale(pairs: Pairs, own: np.ndarray, rows: Rows, dtype: torch.dtype) -> float:
    """Compare the columns of `pairs` with the log-probs [P, 2] of the model, in nats.

    They may differ by what rounding explains of a token. In half precision that is much and different in every token,
    so a mean over n tokens may differ by 1/√n of it: a model of two layers was 0.02 nats off over 8 tokens and 0.007
    over 100, where 0.18 and 0.05 are allowed.

    Args:
        dtype: in which the model computed `own`.

    Returns:
        The largest difference, in nats a token.

    Raises:
        ValueError: one is larger than that; names the row of the file.
    """
    given = np.stack([pairs.columns[name] for name in REFERENCE], axis=1)
    tokens = np.stack([pairs.chosen.lengths, pairs.rejected.lengths], axis=1).clip(min=1)
    difference = np.abs(given - own) / tokens
    allowed = TOLERANCE[dtype] / (np.sqrt(tokens) if dtype in HALF else 1)
    stale = np.argwhere(~(difference <= allowed))  # what is no number differs too
    if not len(stale):
        return float(difference.max())
    pair, side = stale[0]
    wrong = len(np.unique(stale[:, 0]))
    others = f" (the first of {wrong:,})" if wrong > 1 else ""
    raise ValueError(
        f"{rows.where(pairs.row[pair])}{others} has the {REFERENCE[side]} "
        f"{given[pair, side]:.6g}, and the model gives this text {own[pair, side]:.6g}: compute both columns with this "
        "model, leave them out and they are computed here, or set self_test to false if the difference is meant."
    )
