"""Features of prompts and responses: hidden states of the frozen reference, on disk as they are computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.data.ahead import Workers
from iwpo_fast.data.batch import FlatSequences
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.unique import Responses, UniqueTexts
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.reference import (
    ReferenceEntry,
    ReferenceLogps,
    given_logps,
    put_values,
    reference_logps,
)
from iwpo_fast.models.reference_pass import cache_key, pass_batches, pass_settings, visit_batches
from iwpo_fast.rewards import store
from iwpo_fast.rewards.pair_table import PairFeatures, PairTable
from iwpo_fast.world import World


def pair_features(
    policy: Policy,
    pairs: Pairs,
    fingerprint: str,
    *,
    tokens_per_batch: int,
    cache_dir: Path,
    world: World,
    workers: Workers = "auto",
) -> tuple[PairFeatures, ReferenceLogps]:
    """Features and reference log-probs of all pairs, from one pass of the model as it is before training.

    A feature is what the LM head reads, final norm included; a LoRA policy's adapter is off. Prompts and responses
    with the same token ids share a row, and run once. The prompt's feature is read where the first token of its
    completions is predicted, so prompts cost nothing extra.

    The log-probs go where `reference_logps` finds them again. Every finished batch is on disk at once, and a pass
    that was killed continues after the last of them. All ranks must see the same `cache_dir`, and no other job may be
    computing the same features there.

    Args:
        fingerprint: `policy.fingerprint()`, by which results are found again in `cache_dir`.
        tokens_per_batch: tokens that one batch may hold; a single longer response runs alone.
        workers: `DataConfig.workers`.

    Raises:
        ValueError: a hidden state is not finite in float16, or there are no pairs.
    """
    texts = UniqueTexts.of(pairs)
    responses = Responses.of(pairs, texts)
    table = PairTable(texts.prompts.of, responses.chosen, responses.rejected, responses.prompt_of)
    folder = cache_dir / "features" / features_key(policy, pairs, fingerprint)
    if world.largest(store.load(folder) is None):  # if any rank must compute, all must (collectives)
        entry = ReferenceEntry.of(policy, pairs, fingerprint, cache_dir)
        with_logps = bool(world.largest(entry.load() is None))
        batches = pass_batches(policy, responses, tokens_per_batch, world)
        remaining = _remaining(folder, batches[world.rank], with_logps, world)
        done = sum(map(len, batches[world.rank])) - sum(map(len, remaining))

        def visit(rows: np.ndarray, batch: FlatSequences) -> None:
            store.save_part(folder, rows, _results(policy, batch, responses.first_of_prompt[rows], with_logps))

        visit_batches(policy, responses, remaining, visit, what="features", world=world, workers=workers, done=done)
        world.barrier()
        if world.is_main:
            computed = [rows for of_rank in batches for rows in of_rank if len(rows)]
            if with_logps:
                entry.save(_join_logps(folder, responses, computed))
            store.join_parts(folder, responses, computed)
        world.barrier()
    if world.is_main:
        store.remove_parts(folder)
    features = store.load(folder)
    assert features is not None, "the pass has just written the features"
    by_this_model = reference_logps(
        policy,
        pairs,
        fingerprint,
        tokens_per_batch=tokens_per_batch,
        cache_dir=cache_dir,
        world=world,
        workers=workers,
        own=True,
    )
    mean_logps = _mean_logps(pairs, by_this_model, table)
    return PairFeatures(table, *features, mean_logps, texts.prompt_keys), given_logps(pairs) or by_this_model


def features_key(policy: Policy, pairs: Pairs, fingerprint: str) -> str:
    """Names the features of these pairs by this model."""
    return cache_key(pass_settings(policy, pairs, fingerprint) | {"format": "features 3"})


def _remaining(folder: Path, batches: list[np.ndarray], with_logps: bool, world: World) -> list[np.ndarray]:
    """This rank's batches that lack results; empty ones too, as ranks that share the model run it equally often."""
    names = {"prompt", "response"} | ({"logps"} if with_logps else set())
    remaining = [rows for rows in batches if len(rows) and not names <= store.names_in_part(folder, rows)]
    return remaining + [np.empty(0, dtype=np.int64)] * (world.largest(len(remaining)) - len(remaining))


def _results(policy: Policy, batch: FlatSequences, first_of_prompt: np.ndarray, with_logps: bool) -> dict[str, Tensor]:
    """What `store.save_part` keeps of a batch; `logps` are those of its tokens."""
    hidden = policy.hidden_states(batch)
    first = batch.hidden_index[batch.segments[:-1]]
    states = {"prompt": hidden[first[first_of_prompt]], "response": response_states(hidden, batch)}
    results = {name: _in_half(values) for name, values in states.items()}
    if with_logps:
        logps = policy.head.token_logps(hidden, batch.labels, batch.hidden_index, dtype=policy.compute_dtype)
        assert isinstance(logps, Tensor)
        results["logps"] = logps.float().cpu()
    policy.release()  # also done by ranks without a batch
    return results


def _mean_logps(pairs: Pairs, reference: ReferenceLogps, table: PairTable) -> np.ndarray:
    """float32 [C], from the sums over completions by the model that the features are of."""
    means = np.zeros(len(table.prompt_of), dtype=np.float32)
    for side, (rows, part) in enumerate(((table.chosen, pairs.chosen), (table.rejected, pairs.rejected))):
        means[rows] = reference.sequences[:, side] / np.maximum(part.lengths, 1)
    return means


def response_states(hidden: Tensor, batch: FlatSequences) -> Tensor:
    """float32 [S, d], mean of the hidden states [T, d] at each completion's tokens; 0 for an empty completion.

    The mean tells more of a frozen model's judgement than its state at the last token, which looks ahead to what comes
    next.
    """
    states = hidden[batch.completion_index].float()
    sums = torch.segment_reduce(states, "sum", offsets=batch.segments, axis=0, initial=0.0)
    return sums / batch.segments.diff().clamp(min=1)[:, None]


def _in_half(hidden: Tensor) -> Tensor:
    """float16 on the host.

    Raises:
        ValueError: a value is not finite.
    """
    half = hidden.to(torch.float16).cpu()
    if not half.isfinite().all():
        largest = hidden.float().abs().max().item()
        raise ValueError(
            f"The model's last hidden state reaches {largest:.3g}, which features in float16 cannot hold: "
            "check its weights, or take features from another model."
        )
    return half


def _join_logps(folder: Path, responses: Responses, batches: list[np.ndarray]) -> dict[str, np.ndarray]:
    values = np.zeros(len(responses.completions.values), np.float32)
    for rows in batches:
        put_values(values, responses, rows, store.read_part(folder, rows, "logps"))
    return responses.by_pair(values)
