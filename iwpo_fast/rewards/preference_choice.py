"""Preference embeddings beside linear heads: of which decay and after how many rounds, by cross-validation."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from iwpo_fast.rewards.blocks import Float32s, Float64s, Ints
from iwpo_fast.rewards.cross_fit import FoldHeads, slope_of_heads
from iwpo_fast.rewards.descent import best_rounds
from iwpo_fast.rewards.directions import directions
from iwpo_fast.rewards.heads import TrainingPairs
from iwpo_fast.rewards.linear_heads import LinearHeads
from iwpo_fast.rewards.network_choice import cross_validated_rewards, ensemble_rewards, held_out_losses
from iwpo_fast.rewards.preference_fit import Compared, Embeddings, train
from iwpo_fast.rewards.preference_heads import PreferenceHeads
from iwpo_fast.rewards.report import pair_accuracy

DECAYS = (0.1, 1.0, 10.0)
MOST_ROUNDS = 30


def with_preferences(
    of_folds: FoldHeads, pairs: TrainingPairs, penalties: dict[str, Any]
) -> tuple[FoldHeads, dict[str, Any]]:
    """Preference heads in the place of linear ones, of `rewards.preference_dimension`; and a report.

    Decay and rounds are those of the least held-out loss over the folds, by all pairs, as of the networks. The report
    says how often scores of pairs are right, by heads that did not see them where there are folds.
    """
    linear, seed, dimension = of_folds.heads, of_folds.seed, pairs.settings.preference_dimension
    assert isinstance(linear, LinearHeads)
    projection = directions(pairs.features, seed)
    compared = _cross_validated(pairs, penalties, pairs.features @ projection)
    choice, losses, trials = _chosen(compared, pairs.fold, dimension, seed)
    of_linear = compared.linear[compared.sides[:, 0]] - compared.linear[compared.sides[:, 1]]
    gained = held_out_losses(of_linear, pairs.fold) - losses
    shown = compared._replace(
        linear=(ensemble_rewards(linear, pairs) * linear.slope.reshape(-1)).astype(np.float32),
        weights=of_folds.weights.reshape(len(of_folds.weights), -1),
    )
    decays = np.full(linear.folds * linear.members, choice["decay"])
    embeddings = next(islice(train(shown, dimension, decays, seed=seed), choice["rounds"] - 1, None))
    scores = embeddings.all_scores(shown)
    slope = slope_of_heads(scores, shown.weights).reshape(linear.slope.shape)
    of_pairs = (scores.reshape(len(scores), *slope.shape) * slope)[np.arange(len(scores)), _own_fold(pairs, linear)]
    report = choice | {
        "dimension": dimension,
        "trials": trials,
        "held_out_gain": float(gained.mean()),
        "standard_error": float(gained.std() / np.sqrt(len(np.unique(pairs.prompt)))),
        "pair_accuracy": pair_accuracy(of_pairs.mean(axis=1)),
    }
    return replace(of_folds, heads=_heads(linear, projection, embeddings, slope)), report


def _own_fold(pairs: TrainingPairs, linear: LinearHeads) -> Ints:
    return pairs.fold if linear.folds > 1 else np.zeros_like(pairs.fold)


def _heads(linear: LinearHeads, projection: Float32s, embeddings: Embeddings, slope: Float64s) -> PreferenceHeads:
    vectors, bias, gate, share = (part.detach().numpy() for part in embeddings)
    return PreferenceHeads(linear, projection, vectors, bias, gate, share.reshape(slope.shape), slope)


def _cross_validated(pairs: TrainingPairs, penalties: dict[str, Any], inputs: Float32s) -> Compared:
    """What one embedding for each fold learns from: the pairs of the others."""
    rewards, seen = cross_validated_rewards(pairs, penalties)
    slope = slope_of_heads(pairs.compared @ rewards, seen)
    return Compared(inputs, pairs.cluster, pairs.sides, (rewards * slope).astype(np.float32), seen)


def _chosen(
    compared: Compared, fold: Ints, dimension: int, seed: int
) -> tuple[dict[str, Any], Float64s, list[dict[str, Any]]]:
    """Decay and rounds of the least held-out loss; that loss [P]; and what was tried."""
    folds, tried = compared.weights.shape[1], len(DECAYS)
    repeated = compared._replace(
        linear=compared.linear.repeat(tried, axis=1), weights=compared.weights.repeat(tried, axis=1)
    )
    trained = islice(train(repeated, dimension, np.tile(DECAYS, folds), seed=seed), MOST_ROUNDS)
    scores = (embeddings.all_scores(repeated).reshape(len(fold), folds, tried) for embeddings in trained)
    found = best_rounds(np.stack([held_out_losses(s[:, :, i], fold) for i in range(tried)]) for s in scores)
    trials = [
        {"decay": decay, "rounds": rounds, "held_out_loss": float(losses.mean())}
        for decay, (rounds, losses) in zip(DECAYS, found, strict=True)
    ]
    best = int(np.argmin([trial["held_out_loss"] for trial in trials]))
    return {name: trials[best][name] for name in ("decay", "rounds")}, found[best][1], trials
