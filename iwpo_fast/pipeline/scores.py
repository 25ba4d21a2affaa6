"""Where the reward stage takes its scores from: heads on features, columns of the data, or a reward model."""

from __future__ import annotations

from functools import partial

import numpy as np

from iwpo_fast.pipeline.checks import NO_SCORES
from iwpo_fast.pipeline.context import Context
from iwpo_fast.rewards import PairTable, RewardScores, score_pairs, scores_from_columns, uses_likelihood
from iwpo_fast.rewards.classifier import classifier_scores
from iwpo_fast.rewards.tuning import tuned_rewards


def scores_from_features(context: Context, table: PairTable, prompt_cluster: np.ndarray) -> RewardScores:
    features, settings, seed = context.features, context.config.rewards, context.config.seed
    tune = None
    if settings.tuning is not None:
        new_policy = partial(context.new_policy, settings.tuning.lora)
        tune = partial(
            tuned_rewards,
            pairs=context.pairs,
            table=table,
            optim=settings.tuning.optim,
            new_policy=new_policy,
            folder=context.folder.tuned,
            mean_logps=features.mean_logps if uses_likelihood(settings) else None,
            centring=settings.centring,
            seed=seed,
        )
    return score_pairs(
        features.response,
        table,
        prompt_cluster,
        settings,
        seed=seed,
        mean_logps=features.mean_logps,
        prompt_key=features.prompt_keys,
        tune=tune,
    )


def scores_from_data(context: Context, table: PairTable, prompt_cluster: np.ndarray) -> RewardScores:
    columns = context.pairs.columns
    if "score_chosen" not in columns:
        raise ValueError(NO_SCORES)
    given = columns["score_chosen"], columns["score_rejected"]
    _check_scores(context, table, *given)
    return scores_from_columns(*given, table, prompt_cluster, context.config.rewards)


def _check_scores(context: Context, table: PairTable, chosen: np.ndarray, rejected: np.ndarray) -> None:
    """Raise ValueError, naming rows, if a pair has no score, or a completion has another one in another pair."""
    rows = context.rows
    assert context.pairs.row is not None
    number = np.tile(rows.numbers[context.pairs.row], 2)
    response = np.concatenate([table.chosen, table.rejected])
    score = np.concatenate([chosen, rejected]).reshape(len(response), -1)
    absent = np.isnan(score).any(axis=1)
    if absent.any():
        raise ValueError(
            f"In {rows.source}, row {number[absent][0]} lacks a score although rewards.source is columns: give every "
            "pair both scores, or leave the pair out."
        )
    _, first, which = np.unique(response, return_index=True, return_inverse=True)
    other = (score != score[first[which]]).any(axis=1)
    if other.any():
        pair = int(other.argmax())
        two = f"rows {number[first[which[pair]]]} and {number[pair]}"
        raise ValueError(f"In {rows.source}, a completion has different scores in different pairs, {two}: give it one.")


def scores_from_model(context: Context, table: PairTable, prompt_cluster: np.ndarray) -> RewardScores:
    """Each of the C responses is scored once."""
    rows, settings = context.rows, context.config.rewards
    assert context.pairs.row is not None and settings.model is not None
    prompts: list = [None] * len(table.prompt_of)
    completions: list = [None] * len(table.prompt_of)
    for responses, texts in ((table.chosen, rows.chosen), (table.rejected, rows.rejected)):
        for response, row in zip(responses.tolist(), context.pairs.row.tolist(), strict=True):
            prompts[response], completions[response] = rows.prompt[row], texts[row]
    scores = classifier_scores(
        settings.model,
        prompts,
        completions,
        tokens_per_batch=context.config.optim.tokens_per_batch,
        device=context.world.device,
    )
    return scores_from_columns(scores[table.chosen], scores[table.rejected], table, prompt_cluster, settings)
