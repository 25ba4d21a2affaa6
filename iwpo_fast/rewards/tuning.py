"""Rewards by heads on a fine-tuned model: a short training of an adapter for each fold, by the pairs of the others.

Each fold's heads, which learnt on features of the frozen model, stay as they are, and the adapter moves the features
under them: linear probing first, so that fine-tuning need not distort the features (Kumar et al., arXiv 2202.10054).
As without tuning, the unit of the rewards is the log-odds of the pairs that were learnt from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from iwpo_fast.checksums import Damaged
from iwpo_fast.config import RewardConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.batch import FlatBatch, flat_batch, flat_responses
from iwpo_fast.data.order import micro_batches, step_rows
from iwpo_fast.data.unique import Responses
from iwpo_fast.files import load_tensors, save_tensors
from iwpo_fast.finite import backward
from iwpo_fast.models import Policy
from iwpo_fast.optimisation import fit, optimizer_steps, seed_step
from iwpo_fast.rewards.cross_fit import FoldHeads, slope_of_heads
from iwpo_fast.rewards.features import mean_states, response_states
from iwpo_fast.rewards.linear_heads import LinearHeads
from iwpo_fast.rewards.pair_table import PairFeatures, PairTable
from iwpo_fast.rewards.scores import groups_for

logger = logging.getLogger(__name__)

OfPairs = Callable[[np.ndarray, bool], tuple[Tensor, Tensor, Tensor | None]]


def tuned_rewards(
    heads: FoldHeads,
    features: PairFeatures,
    pairs: Pairs,
    settings: RewardConfig,
    new_policy: Callable[[], Policy],
    folder: Path,
) -> np.ndarray:
    """float32 [C, members]: rewards of every response by a model that never saw its prompt.

    Args:
        heads: of every fold, learnt from these features.
        pairs: the P pairs, tokenised, with the candidates that the features are of.
        settings: with `tuning`.
        new_policy: the model with an untrained adapter.
        folder: where each finished fold is kept, so that a new call can continue a killed one.

    Raises:
        ValueError: a reward is not finite.
    """
    rewards = np.empty((len(heads.fold), heads.heads.members), dtype=np.float32)
    for fold in range(heads.heads.folds):
        path = folder / f"fold-{fold}.safetensors"
        responses = heads.fold == fold
        of_fold = _kept(path)
        if of_fold is None:
            of_fold = _fold_rewards(heads, fold, features, pairs, settings, new_policy())[responses]
            save_tensors(path, {"rewards": torch.from_numpy(of_fold)})
        rewards[responses] = of_fold
    return rewards


def _kept(path: Path) -> np.ndarray | None:
    """The rewards of a finished fold; None if it is not finished, or they are damaged."""
    if not path.exists():
        return None
    try:
        return load_tensors(path)["rewards"]
    except Damaged:
        logger.warning("The rewards in %s are damaged: tuning this fold again.", path)
        return None


def _fold_rewards(
    heads: FoldHeads, fold: int, features: PairFeatures, pairs: Pairs, settings: RewardConfig, policy: Policy
) -> np.ndarray:
    """float32 [C, m], in log-odds of the pairs that the heads of a fold and its adapter learnt from.

    The adapter minimises, over the pairs that the heads were shown and as often as they were,

        mean over heads of softplus(-(r_w - r_l)) + c (r_w + r_l)²,    r = (v + δ_z)ᵀ f(x, y)

    and, where `language_modelling` says so, that many times the negative mean log-prob of the chosen response.
    """
    assert settings.tuning is not None
    optim, weights, table = settings.tuning.optim, heads.weights[:, fold], features.table
    rewards_of, rewards_alone = _heads_on(policy, heads, fold, features, pairs, settings)
    modelling = settings.tuning.language_modelling
    shown = np.flatnonzero(weights.any(axis=1))

    def batches(rows: np.ndarray) -> list[np.ndarray]:
        budget, cap = optim.tokens_per_batch, optim.max_pairs_per_batch
        cut = micro_batches(rows, policy.tokens(pairs), budget=budget, max_pairs=cap)[0]
        return [batch for batch in cut if len(batch)]

    def accumulate(step: int) -> None:
        seed_step(heads.seed, fold, step)
        rows = shown[step_rows(len(shown), step, pairs_per_step=optim.pairs_per_step, seed=heads.seed)]
        for batch in batches(rows):
            chosen, rejected, likelihood = rewards_of(batch, modelling > 0)
            losses = softplus(rejected - chosen) + settings.centring * (chosen + rejected).square()
            if likelihood is not None:
                losses = losses - modelling * likelihood[:, None]
            times = torch.from_numpy(weights[batch]).to(losses)
            backward((times * losses).mean(1).sum() / len(rows))

    policy.train()
    _, steps = optimizer_steps(optim, len(shown))
    fit(
        policy.trainable_parameters(),
        optim,
        steps,
        accumulate,
        what=f"reward model {fold + 1}",
        rate="rewards.tuning.optim.lr",
    )
    policy.eval()
    scores = np.empty((len(table.prompt_of), heads.heads.members), dtype=np.float32)
    with torch.no_grad():
        for batch in batches(np.arange(len(pairs))):
            chosen, rejected, _ = rewards_of(batch, False)
            scores[table.chosen[batch]], scores[table.rejected[batch]] = chosen.cpu().numpy(), rejected.cpu().numpy()
        for others, batch_of_others in _in_no_pair(table, pairs, optim.tokens_per_batch):
            scores[others] = rewards_alone(batch_of_others, others).cpu().numpy()
    if not np.isfinite(scores).all():
        raise ValueError("Some fine-tuned rewards are not finite: lower rewards.tuning.optim.lr.")
    gaps = scores[table.chosen] - scores[table.rejected]
    return scores * slope_of_heads(gaps, weights).astype(np.float32)


def _in_no_pair(table: PairTable, pairs: Pairs, budget: int) -> Iterator[tuple[np.ndarray, FlatBatch]]:
    """The responses that are in no pair, int64, batch after batch."""
    others = np.setdiff1d(np.arange(len(table.prompt_of)), np.concatenate([table.chosen, table.rejected]))
    if not len(others):
        return
    responses = Responses.of(pairs)
    tokens = responses.completions.lengths + responses.prompts.lengths[responses.prompt_of]
    for rows in micro_batches(others, tokens, budget=budget)[0]:
        if len(rows):
            yield rows, flat_responses(responses, rows)


def _heads_on(
    policy: Policy, heads: FoldHeads, fold: int, features: PairFeatures, pairs: Pairs, settings: RewardConfig
) -> tuple[OfPairs, Callable[[FlatBatch, np.ndarray], Tensor]]:
    """The m heads of a fold on top of the policy.

    Returns:
        From b pairs to rewards [b, m] of their two responses, and the mean log-probs [b] of the chosen ones where they
        are asked for; from a batch of b responses to their rewards [b, m].

    Features that are not hidden states stay as the frozen model gave them.
    """
    table, linear = features.table, heads.heads
    assert isinstance(linear, LinearHeads), "other heads are not tuned"
    cluster = heads.cluster if len(linear.vectors) > 1 else np.zeros_like(heads.cluster)
    _, *others = groups_for(features, settings)
    frozen = np.concatenate([np.empty((len(table.prompt_of), 0), np.float32), *others], axis=1)

    def on_device(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(policy.device)

    mean, scale, vectors = on_device(linear.mean), on_device(linear.scale), on_device(linear.vectors[:, :, fold])
    pair_cluster = on_device(cluster[table.chosen])
    pair_frozen = on_device(np.stack([frozen[table.chosen], frozen[table.rejected]]))

    def rewards_of(rows: np.ndarray, modelled: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        on_host, likelihood = flat_batch(pairs, rows), None
        batch = on_host.to(policy.device)
        if modelled:
            states, likelihood = _states_and_likelihood(policy, batch, tokens=int(on_host.segments[len(rows)]))
        else:
            states = response_states(policy.hidden_states(batch), batch)
        states = states.unflatten(0, (2, len(rows)))
        inputs = (torch.cat([states, pair_frozen[:, batch.rows]], -1) - mean) * scale
        chosen, rejected = torch.einsum("spd,pdm->spm", inputs, vectors[pair_cluster[batch.rows]])
        return chosen, rejected, likelihood

    def rewards_alone(batch: FlatBatch, responses: np.ndarray) -> Tensor:
        batch = batch.to(policy.device)
        states = response_states(policy.hidden_states(batch), batch)
        inputs = (torch.cat([states, on_device(frozen[responses])], -1) - mean) * scale
        return torch.einsum("bd,bdm->bm", inputs, vectors[on_device(cluster[responses])])

    return rewards_of, rewards_alone


def _states_and_likelihood(policy: Policy, batch: FlatBatch, *, tokens: int) -> tuple[Tensor, Tensor]:
    """float32 [2P, d], what `response_states` gives, and float32 [P], mean log-probs of the chosen responses' tokens.

    Args:
        tokens: supervised ones of the chosen responses, over which alone the LM head runs.
    """
    of_chosen = {name: getattr(batch, name)[:tokens] for name in ("labels", "hidden_index", "completion_index")}
    logps, states = policy.with_states(replace(batch, **of_chosen), batch.completion_index)
    assert isinstance(logps, Tensor)
    segments = batch.segments[: batch.pairs + 1]
    sums = torch.segment_reduce(logps, "sum", offsets=segments, initial=0.0)
    return mean_states(states, batch), sums / segments.diff().clamp(min=1)
