"""One pass of the reference, the policy as it is before training, over pairs in batches."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from iwpo_fast.data.ahead import Workers, made_ahead
from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.data.order import Turn, in_turn, micro_batches
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.unique import UniqueTexts
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.sharding import taking_turns
from iwpo_fast.world import World


def pass_settings(policy: Policy, pairs: Pairs, fingerprint: str) -> dict[str, str | int]:
    """What the results of a pass over `pairs` depend on."""
    return {
        "tokens": pairs.token_fingerprint(),
        "weights": fingerprint,
        "layout": policy.layout,
        "precision": str(policy.compute_dtype),
        "device": policy.device.type,
    }


def cache_key(settings: dict[str, str | int]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def pass_batches(policy: Policy, pairs: Pairs, tokens_per_batch: int, world: World) -> list[list[np.ndarray]]:
    """The rows of each batch of each rank; pairs of one prompt together if the policy shares prompts."""
    prompts = UniqueTexts.of(pairs).prompts.of if policy.layout == "shared" else None
    rows, tokens = np.arange(len(pairs)), policy.tokens(pairs)
    return micro_batches(rows, tokens, budget=tokens_per_batch, ranks=world.size, prompts=prompts)


@contextlib.contextmanager
def as_reference(policy: Policy) -> Iterator[None]:
    """Let the policy be its reference while the body runs: evaluation mode, adapter off, no gradients."""
    was_training = policy.training
    policy.eval()
    try:
        with torch.no_grad(), policy.disable_adapter() if policy.has_adapter else contextlib.nullcontext():
            yield
    finally:
        policy.train(was_training)


def visit_batches(
    policy: Policy,
    pairs: Pairs,
    batches: Sequence[np.ndarray],
    visit: Callable[[np.ndarray, FlatBatch], None],
    *,
    what: str,
    world: World,
    workers: Workers = "auto",
    done: int = 0,
) -> None:
    """Call `visit(rows, batch)` for this rank's batches in turn, with the policy as its reference.

    Args:
        batches: int64 rows of each; for a sharded policy as many on every rank, some of them empty.
        what: what is computed, for the progress bar.
        workers: as of `made_ahead`.
        done: pairs finished before, where the bar starts.
    """

    def make(turn: Turn) -> FlatBatch:
        return policy.ready(flat_batch(pairs, turn.rows if len(turn.rows) else np.array([pairs.tokens.argmin()])))

    total = done + sum(map(len, batches))
    bar = tqdm(total=total, initial=done, desc=what, unit="pair", disable=None if world.is_main else True)
    with as_reference(policy), bar:
        for rows, batch in taking_turns(policy, made_ahead(make, in_turn(batches), world.device, workers)):
            visit(rows, batch)
            bar.update(len(rows))
