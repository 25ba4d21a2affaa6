"""Heads that give distributions over categories, in the place of linear ones: of which decay, after how many rounds."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from iwpo_fast.config import CategoryConfig
from iwpo_fast.rewards.blocks import Float32s, Float64s, Groups, Ints, float32_blocks
from iwpo_fast.rewards.categories import graded
from iwpo_fast.rewards.cross_fit import FoldHeads, slope_of_heads
from iwpo_fast.rewards.descent import best_rounds
from iwpo_fast.rewards.directions import directions
from iwpo_fast.rewards.distribution_fit import Distributions, Judged, all_losses, train
from iwpo_fast.rewards.distribution_heads import DistributionHeads, moments
from iwpo_fast.rewards.heads import TrainingPairs
from iwpo_fast.rewards.linear_heads import LinearHeads
from iwpo_fast.rewards.pair_table import PairTable

DECAYS = (0.1, 1.0, 10.0)
MOST_ROUNDS = 30


def with_distributions(
    of_folds: FoldHeads,
    pairs: TrainingPairs,
    groups: Groups,
    grades: Float64s,
    table: PairTable,
    prompt_fold: Ints,
) -> tuple[FoldHeads, dict[str, Any]]:
    """Distribution heads, learnt from all graded responses, in pairs or not; and a report.

    Each is shown the prompts that the linear head in its place was shown, and as often. Decay and rounds are those of
    the least held-out loss over the folds. Its unit is then the log-odds of the pairs of these prompts.

    Args:
        grades: [C, J], NaN where there is none.
        prompt_fold: [M] int64.

    Raises:
        ValueError: too few responses are graded, or all alike.
    """
    linear, seed, settings = of_folds.heads, of_folds.seed, pairs.settings.categories
    assert isinstance(linear, LinearHeads)
    given = graded(grades, settings)
    projection = directions(pairs.features, seed)
    fold = prompt_fold[table.prompt_of[given.response]]
    judged = Judged(
        inputs=_projected(groups, given.response, linear, projection),
        cluster=of_folds.cluster[given.response],
        targets=given.targets.astype(np.float32),
        values=given.values,
        weights=(fold[:, None] != np.arange(int(prompt_fold.max()) + 1)).astype(np.float64),
    )
    choice, trials = _chosen(judged, fold, settings, seed)
    of_pairs = of_folds.weights.reshape(len(table), -1)
    of_prompts = np.zeros((len(prompt_fold), of_pairs.shape[1]))
    of_prompts[table.prompt] = of_pairs
    shown = judged._replace(weights=of_prompts[table.prompt_of[given.response]])
    decays = np.full(of_pairs.shape[1], choice["decay"])
    trained = next(islice(train(shown, settings, decays, seed=seed), choice["rounds"] - 1, None))
    heads = _in_log_odds(_heads(linear, projection, trained, given.values), groups, of_folds, table)
    report = choice | {"trials": trials, "graded": len(given.response), "values": given.values.tolist()}
    return replace(of_folds, heads=heads), report


def _projected(groups: Groups, rows: Ints, linear: LinearHeads, projection: Float32s) -> Float32s:
    found = np.empty((len(rows), projection.shape[1]), dtype=np.float32)
    for place, block in float32_blocks(groups, rows):
        found[place] = ((block - linear.mean) * linear.scale) @ projection
    return found


def _heads(
    linear: LinearHeads, projection: Float32s, distributions: Distributions, values: Float64s
) -> DistributionHeads:
    vectors, bias = (part.detach().numpy() for part in distributions)
    return DistributionHeads(linear.mean, linear.scale, projection, vectors, bias, values, np.ones_like(linear.slope))


def _in_log_odds(heads: DistributionHeads, groups: Groups, of_folds: FoldHeads, table: PairTable) -> DistributionHeads:
    """With the logistic slope of the gaps of every head, over the pairs that it was shown."""
    expected = np.empty((len(of_folds.cluster), heads.slope.size))
    for place, found in heads.distributions(groups, of_folds.cluster):
        expected[place] = moments(found, heads.values)[0].reshape(len(found), -1)
    gaps = expected[table.chosen] - expected[table.rejected]
    slope = slope_of_heads(gaps, of_folds.weights.reshape(len(table), -1))
    return replace(heads, slope=slope.reshape(heads.slope.shape))


def _chosen(
    judged: Judged, fold: Ints, settings: CategoryConfig, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Decay and rounds of the least held-out loss, and what was tried."""
    folds, tried = judged.weights.shape[1], len(DECAYS)
    repeated = judged._replace(weights=judged.weights.repeat(tried, axis=1))
    trained = islice(train(repeated, settings, np.tile(DECAYS, folds), seed=seed), MOST_ROUNDS)
    own = np.arange(len(fold))
    held_out = (
        all_losses(distributions, repeated, settings).reshape(len(fold), folds, tried)[own, fold].T.astype(np.float64)
        for distributions in trained
    )
    trials = [
        {"decay": decay, "rounds": rounds, "held_out_loss": float(of_decay.mean())}
        for decay, (rounds, of_decay) in zip(DECAYS, best_rounds(held_out), strict=True)
    ]
    best = min(trials, key=lambda trial: trial["held_out_loss"])
    return {name: best[name] for name in ("decay", "rounds")}, trials
