"""Features of prompts and responses: hidden states of the frozen reference, on disk as they are computed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.data.ahead import Workers
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.context import trained_lengths
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.unique import Responses
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.reference import (
    as_reference,
    in_the_order_of,
    pass_batches,
    put_values,
    response_bar,
    run_batches,
    with_reference,
)
from iwpo_fast.models.reference_cache import cache_key, load_logps, pass_settings, save_logps
from iwpo_fast.rewards import store
from iwpo_fast.rewards.pair_table import PairFeatures, PairTable
from iwpo_fast.world import World

RECIPE = {
    "format": "features 3",
    "layer": "last, after the final norm",
    "prompt": "hidden state at the last token",
    "response": "mean of the hidden states at its tokens",
}
"""How features are made; whatever learnt from features of another recipe cannot read these."""


def pair_features(
    policy: Policy,
    pairs: Pairs,
    world: World,
    cache_dir: Path,
    *,
    tokens_per_batch: int,
    workers: Workers = "auto",
) -> PairFeatures:
    """Features of all pairs and their candidates, from one pass of the model as it is before training.

    A feature is what the LM head reads, final norm included; a LoRA policy's adapter is off. Prompts and responses
    with the same token ids share a row, and run once. The prompt's feature is read where the first token of its
    completions is predicted, so prompts cost nothing extra.

    The log-probs go where `with_reference` finds them again. Every finished batch is on disk at once, and a pass
    that was killed goes on behind the last of them. All ranks must see the same `cache_dir`. A job that finds another
    one computing the same features there waits for it.

    Args:
        cache_dir: where results are found again.
        tokens_per_batch: tokens that one batch may hold; a single longer response runs alone.
        workers: `DataConfig.workers`.

    Raises:
        ValueError: a hidden state is not finite in float16, or there are no pairs.
    """
    responses = Responses.of(pairs)
    prompt_of, chosen, rejected = responses.prompt_of, responses.chosen, responses.rejected
    table = PairTable(prompt_of[chosen], chosen, rejected, prompt_of)
    folder = cache_dir / "features" / features_key(policy, pairs)
    features = store.load(folder)
    if world.largest(features is None or store.has_parts(folder)):  # if any rank must compute, all must (collectives)
        with store.held(folder) if world.is_main else nullcontext():
            if world.largest(store.load(folder) is None):  # where all wait while another job computes the same
                _compute(_Pass(policy, pairs, responses, world, tokens_per_batch, workers), folder, cache_dir)
            if world.is_main:
                store.remove_parts(folder)
        features = store.load(folder)
    assert features is not None, "the pass has just written the features"
    # Without columns, the log-probs are this model's own, whatever the data bring.
    scored = with_reference(
        policy, replace(pairs, columns={}), world, cache_dir, tokens_per_batch=tokens_per_batch, workers=workers
    )
    logps, lengths = _mean_logps(scored, responses), trained_lengths(responses.completions)
    return PairFeatures(table, *features, logps, responses.prompt_keys, lengths)


def features_key(policy: Policy, pairs: Pairs) -> str:
    """Names the features of these pairs by this model."""
    return cache_key(pass_settings(policy, pairs) | {"format": RECIPE["format"]})


class _Pass(NamedTuple):
    """A pass of a policy over responses."""

    policy: Policy
    pairs: Pairs
    responses: Responses
    world: World
    tokens_per_batch: int
    workers: Workers


def _compute(made: _Pass, folder: Path, cache_dir: Path) -> None:
    """Write the features to `folder`, and log-probs to the cache where they are absent. All ranks call it."""
    policy, pairs, responses, world, tokens_per_batch, workers = made
    with_logps = bool(world.largest(load_logps(cache_dir, policy, pairs) is None))
    batches = pass_batches(policy, responses, tokens_per_batch, world)
    remaining = _remaining(folder, batches[world.data_rank], with_logps, world)
    total = sum(map(len, batches[world.data_rank]))
    done = total - sum(map(len, remaining))
    with as_reference(policy), response_bar("features", total, world, done=done) as bar:
        for rows, batch in run_batches(policy, responses, remaining, world, workers):
            results = _results(policy, batch, responses.first_of_prompt[rows], with_logps)
            if world.has_share:
                store.save_part(folder, rows, results)
            bar.update(len(rows))
    world.barrier()
    if world.is_main:
        computed = [rows for of_rank in batches for rows in of_rank if len(rows)]
        if with_logps:
            logps = in_the_order_of(pairs, responses, _join_logps(folder, responses, computed))
            save_logps(cache_dir, policy, pairs, logps)
        store.join_parts(folder, responses, computed)
    world.barrier()


def _remaining(folder: Path, batches: list[np.ndarray], with_logps: bool, world: World) -> list[np.ndarray]:
    """This rank's batches that lack results, and empty ones: ranks that share the model run it equally often."""
    names = {"prompt", "response"} | ({"logps"} if with_logps else set())
    remaining = [rows for rows in batches if len(rows) and not names <= store.names_in_part(folder, rows)]
    return remaining + [np.empty(0, dtype=np.int64)] * (world.largest(len(remaining)) - len(remaining))


def _results(policy: Policy, batch: FlatBatch, first_of_prompt: np.ndarray, with_logps: bool) -> dict[str, Tensor]:
    """What `store.save_part` keeps of a batch; `logps` are those of its tokens."""
    hidden = policy.hidden_states(batch)
    # Not where the first token of the completion is predicted, because an empty completion has none.
    prompt_end = batch.expand_index[batch.cu_seqlens[:-1].long() + batch.prompt_lengths - 1]
    states = {"prompt": hidden[prompt_end[first_of_prompt]], "response": response_states(hidden, batch)}
    results = {name: _in_half(values) for name, values in states.items()}
    if with_logps:
        logps = policy.head.token_logps(hidden, batch.labels, batch.hidden_index, dtype=policy.compute_dtype)
        results["logps"] = logps.float().cpu()
    policy.release()  # also done by ranks without a batch
    return results


def _mean_logps(pairs: Pairs, responses: Responses) -> np.ndarray:
    """float32 [C], from the sums over completions by the model that the features are of."""
    means = np.zeros(len(responses), dtype=np.float32)
    assert pairs.ref_logps is not None
    sums = [
        (responses.chosen, pairs.ref_logps[:, 0], pairs.chosen),
        (responses.rejected, pairs.ref_logps[:, 1], pairs.rejected),
    ]
    if (candidates := pairs.candidates) is not None:
        assert candidates.ref_logps is not None
        sums.append((responses.candidates, candidates.ref_logps, candidates.completions))
    for rows, of_rows, part in sums:
        means[rows] = of_rows / np.maximum(trained_lengths(part), 1)
    return means


def response_states(hidden: Tensor, batch: FlatBatch) -> Tensor:
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


def _join_logps(folder: Path, responses: Responses, batches: list[np.ndarray]) -> np.ndarray:
    """float32, log-probs of all tokens of the responses."""
    values = np.zeros(len(responses.completions.values), np.float32)
    for rows in batches:
        put_values(values, responses, rows, store.read_part(folder, rows)["logps"])
    return values
