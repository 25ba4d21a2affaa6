"""One pass of the reference, the policy as it is before training, over every response of pairs once, in batches."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from iwpo_fast.data.ahead import Workers, made_ahead
from iwpo_fast.data.batch import FlatSequences, flat_sequences
from iwpo_fast.data.order import SharedPrompts, Turn, in_turn, micro_batches
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.unique import Responses
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.sharding import taking_turns
from iwpo_fast.world import World


def pass_settings(policy: Policy, pairs: Pairs, fingerprint: str) -> dict[str, str | int]:
    """What the results of a pass over `pairs` depend on."""
    return {
        "tokens": pairs.token_fingerprint(),
        "weights": fingerprint,
        "layout": policy.layout,
        "attention": policy.attention,
        "compiled": policy.is_compiled,
        "precision": str(policy.compute_dtype),
        "device": policy.device.type,
    }


def cache_key(settings: dict[str, str | int]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def pass_batches(policy: Policy, responses: Responses, tokens_per_batch: int, world: World) -> list[list[np.ndarray]]:
    """The responses in each batch of each rank; those to one prompt together if the policy shares prompts."""
    rows, tokens, of_prompt = np.arange(len(responses)), responses.completions.lengths, responses.prompts.lengths
    shared = SharedPrompts(responses.prompt_of, of_prompt) if policy.layout == "shared" else None
    if shared is None:
        tokens = tokens + of_prompt[responses.prompt_of]
    return micro_batches(rows, tokens, budget=tokens_per_batch, ranks=world.size, shared=shared)


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
    responses: Responses,
    batches: Sequence[np.ndarray],
    visit: Callable[[np.ndarray, FlatSequences], None],
    *,
    what: str,
    world: World,
    workers: Workers = "auto",
    done: int = 0,
) -> None:
    """Call `visit(rows, batch)` for this rank's batches in turn, with the policy as its reference.

    Args:
        batches: int64, responses of each; for a sharded policy as many on every rank, some of them empty.
        what: what is computed, for the progress bar.
        workers: as of `made_ahead`.
        done: responses finished before, where the bar starts.
    """

    def make(turn: Turn) -> FlatSequences:
        rows = turn.rows if len(turn.rows) else np.array([responses.completions.lengths.argmin()])
        return policy.ready(flat_sequences(responses.prompts, responses.prompt_of, responses.completions, rows))

    total = done + sum(map(len, batches))
    bar = tqdm(total=total, initial=done, desc=what, unit="response", disable=None if world.is_main else True)
    with as_reference(policy), bar:
        for rows, batch in taking_turns(policy, made_ahead(make, in_turn(batches), world.device, workers)):
            visit(rows, batch)
            bar.update(len(rows))
