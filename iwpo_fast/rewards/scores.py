"""From features, or from external scores, to calibrated rewards: MCRM from end to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from iwpo_fast.config import RewardConfig
from iwpo_fast.config_checks import check_reward_settings
from iwpo_fast.rewards.blocks import Float64s, Floats, Groups, Ints
from iwpo_fast.rewards.calibration import Calibration, calibrate, fit_calibration, units_of_unknown_scale
from iwpo_fast.rewards.checks import (
    check_clusters,
    check_features,
    check_folds,
    check_prompt_keys,
    uses_likelihood,
)
from iwpo_fast.rewards.cross_fit import FoldHeads, TunedRewards, choose_penalties, fit_fold_heads, fold_of_prompts
from iwpo_fast.rewards.distribution_choice import with_distributions
from iwpo_fast.rewards.distribution_heads import DistributionHeads
from iwpo_fast.rewards.family import report_family
from iwpo_fast.rewards.head_kinds import Heads
from iwpo_fast.rewards.heads import TrainingPairs
from iwpo_fast.rewards.network_choice import may_have_networks, with_networks
from iwpo_fast.rewards.pair_table import PairFeatures, PairTable
from iwpo_fast.rewards.pessimism import Pessimism
from iwpo_fast.rewards.preference_choice import with_preferences
from iwpo_fast.rewards.report import pair_accuracy, report_pessimism, report_rewards

CROSS_VALIDATION_FOLDS = 4


@dataclass(frozen=True)
class RewardScores:
    """Rewards of C responses in G clusters.

    Attributes:
        raw: [C, members] fp64, by each member of the ensemble; clusters have no common unit.
        calibrated: [C] fp64, log-odds: clip(s_k (mean of the members - a_k), ± max_reward), less what pessimism takes.
        members_calibrated: [C, members] fp64, the members under the same map: a family of reward models.
        trust: [G] fp64 in [0, 1], how far labels may be doubted by these rewards.
        slope: [G] fp64, s_k >= 0.
        centre: [G] fp64, a_k.
        reliability: [G] fp64 in [0, 1], how surely the rewards say anything of the labels: 0 where they do not.
        report: for the user: what `report_rewards` returns, and `penalties`, what `choose_penalties` returns; these are
            None for rewards that no heads made.
        heads: those of all folds, where the rewards are theirs alone; None for fine-tuned and for external rewards.
        win: [P] fp64, with what probability the chosen response would be graded higher than the rejected one, by heads
            that know grades; None for others.
        pessimism: what calibrated rewards were lowered by; None for rewards as they were calibrated.
    """

    raw: Float64s
    calibrated: Float64s
    members_calibrated: Float64s
    trust: Float64s
    slope: Float64s
    centre: Float64s
    reliability: Float64s
    report: dict[str, Any]
    heads: Heads | None = None
    win: Float64s | None = None
    pessimism: Pessimism | None = None

    @property
    def calibration(self) -> Calibration:
        return Calibration(self.centre, self.slope, self.trust, self.reliability)


def score_pairs(
    features: PairFeatures,
    prompt_cluster: Ints,
    settings: RewardConfig,
    *,
    seed: int,
    tune: Callable[[FoldHeads], TunedRewards] | None = None,
    grades: Float64s | None = None,
) -> RewardScores:
    """Cross-fitted, calibrated rewards of all responses, by an ensemble of heads on their features.

    Features of responses in pairs are held in memory as fp32, the others are read a block at a time.

    Args:
        prompt_cluster: [M] int64, cluster of every prompt.
        seed: of folds, bootstrap and the partners of the overlap term.
        grades: [C, J] by J annotators, NaN where there is none, for `rewards.heads: dprm`, which alone reads them.
        tune: gives what the heads say on features that have been tuned for them.

    Raises:
        ValueError: shapes do not fit, features are not finite, a setting cannot be, or folds lack pairs.
    """
    table = features.table
    check_reward_settings(settings)
    check_clusters(prompt_cluster, table)
    check_features(features, settings)
    prompt_fold = folds_for(features, len(prompt_cluster), settings, seed)
    groups = groups_for(features, settings)
    pairs = TrainingPairs.read(
        groups, table, prompt_cluster, prompt_fold, settings, seed=seed, lengths=features.lengths
    )
    penalties = choose_penalties(pairs)
    response_cluster, response_fold = prompt_cluster[table.prompt_of], prompt_fold[table.prompt_of]
    ridge, residual = penalties["ridge"], penalties["residual"]
    of_folds = fit_fold_heads(pairs, ridge, residual, response_cluster, table.prompt_of, response_fold, seed=seed)
    if may_have_networks(settings):
        of_folds, report = with_networks(of_folds, pairs, penalties)
        penalties = penalties | {"networks": report}
    if settings.heads == "gpm":
        of_folds, report = with_preferences(of_folds, pairs, penalties)
        penalties = penalties | {"preferences": report}
    if settings.heads == "dprm":
        assert grades is not None, "whoever asks for distributions has grades"
        of_folds, report = with_distributions(of_folds, pairs, groups, grades, table, prompt_fold)
        penalties = penalties | {"distributions": report}
    tuned = TunedRewards(of_folds.rewards(groups)) if tune is None else tune(of_folds)
    if tuned.scores is not None:
        right = pair_accuracy(tuned.scores.mean(axis=1, dtype=np.float64))
        penalties = penalties | {"preferences": penalties["preferences"] | {"tuned_pair_accuracy": right}}
    unit = np.ones(len(pairs.cells))
    scores = _calibrated(tuned.rewards.astype(np.float64), table, prompt_cluster, unit, settings, penalties)
    if settings.family is not None:
        family = report_family(settings.family, scores.raw, table, features.lengths)
        scores = replace(scores, report=scores.report | {"family": family})
    scores = _lowered(scores, Pessimism.fit(pairs, ridge), of_folds, groups, table)
    return replace(scores, heads=of_folds.heads if tune is None else None, win=_win(of_folds, groups, table))


def _win(of_folds: FoldHeads, groups: Groups, table: PairTable) -> Float64s | None:
    if not isinstance(of_folds.heads, DistributionHeads):
        return None
    every = of_folds.heads.wins(groups, of_folds.cluster, table.chosen, table.rejected)
    return np.asarray(every[np.arange(len(every)), of_folds.fold[table.chosen]].mean(axis=1))


def _lowered(
    scores: RewardScores,
    pessimism: Pessimism | None,
    of_folds: FoldHeads,
    groups: Groups,
    table: PairTable,
) -> RewardScores:
    """Scores after pessimism, if there is any; what the report says of clusters is of the rewards before it."""
    if pessimism is None:
        return scores
    before = scores.calibrated
    after = pessimism.lower(before, scores.members_calibrated, groups, of_folds.cluster, of_folds.fold)
    report = scores.report | {"pessimism": pessimism.record() | report_pessimism(before, after.score, table)}
    return replace(scores, calibrated=after.score, members_calibrated=after.members, pessimism=pessimism, report=report)


def fold_count(settings: RewardConfig) -> int:
    """Folds of prompts, which are for cross-validation alone where one set of heads scores all pairs."""
    return settings.folds if settings.folds > 1 else CROSS_VALIDATION_FOLDS


def folds_for(features: PairFeatures, prompts: int, settings: RewardConfig, seed: int) -> Ints:
    """Fold [M] int64 of every prompt: that of the heads that score it, or with one fold for cross-validation alone.

    Raises:
        ValueError: keys do not fit, or a fold lacks pairs.
    """
    folds = fold_count(settings)
    keys = range(prompts) if features.prompt_keys is None else features.prompt_keys
    check_prompt_keys(keys, prompts, settings)
    prompt_fold = fold_of_prompts(keys, folds, seed)
    check_folds(prompt_fold[features.table.prompt], folds)
    return prompt_fold


def groups_for(features: PairFeatures, settings: RewardConfig) -> Groups:
    """What heads read of a response: its hidden state and, as `rewards.likelihood` says, its mean log-prob."""
    if uses_likelihood(settings) and features.mean_logps is not None:
        return features.response, features.mean_logps[:, None]
    return (features.response,)


def scores_from_columns(
    chosen: Floats, rejected: Floats, table: PairTable, prompt_cluster: Ints, settings: RewardConfig
) -> RewardScores:
    """Calibrated rewards from external scores, of a reward model or a judge, on any scale in each cluster.

    They did not learn from these pairs, so there is nothing to cross-fit. They have no unit of their own either, so
    members of an ensemble are first brought to one mean and one root mean square of the gaps, unless
    `settings.calibration` is off. Trust is measured against the slope of all pairs, after each cluster's gaps have
    been scaled to one size.

    Args:
        chosen: [P], or [P, members] by an ensemble, scores of the chosen responses.
        rejected: the same of the rejected responses.
        table: the pairs; every response must be in one of them.
        prompt_cluster: [M] int64.

    Raises:
        ValueError: shapes do not fit, or a response has no score, two different ones, or one that is not finite.
    """
    return scores_of_responses(_by_response(chosen, rejected, table), table, prompt_cluster, settings)


def scores_of_responses(raw: Float64s, table: PairTable, prompt_cluster: Ints, settings: RewardConfig) -> RewardScores:
    """The same from the scores [C, members] of every response, be it in a pair or not.

    Raises:
        ValueError: shapes do not fit, or a score is not finite.
    """
    check_reward_settings(settings)
    check_clusters(prompt_cluster, table)
    if raw.ndim != 2 or len(raw) != len(table.prompt_of):
        raise ValueError(f"Scores of shape {raw.shape} do not fit {len(table.prompt_of)} responses: give one row each.")
    if (bad := ~np.isfinite(raw).all(axis=1)).any():
        raise ValueError(
            f"{bad.sum()} responses have scores that are NaN or infinite, the first of them response {bad.argmax()} "
            "(from 0): score them again or leave them out."
        )
    if settings.calibration:
        raw = _in_one_unit(raw, table)
    mean = raw.mean(axis=1)
    clusters = int(prompt_cluster.max()) + 1
    unit = units_of_unknown_scale(mean[table.chosen] - mean[table.rejected], prompt_cluster[table.prompt], clusters)
    return _calibrated(raw, table, prompt_cluster, unit, settings, None)


def _by_response(chosen: Floats, rejected: Floats, table: PairTable) -> Float64s:
    """[C, members], each response's one score, of the scores of pairs."""
    if chosen.shape != rejected.shape or chosen.ndim not in (1, 2) or len(chosen) != len(table):
        raise ValueError(
            f"Scores of shape {chosen.shape} (chosen) and {rejected.shape} (rejected) do not fit {len(table)} pairs: "
            "give one of each per pair."
        )
    rows = np.concatenate([table.chosen, table.rejected])
    scores = np.concatenate([chosen, rejected]).astype(np.float64).reshape(len(rows), -1)
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores).all(axis=1)) % len(table)
        raise ValueError(
            f"{len(bad)} scores are NaN or infinite, the first in pair {bad.min()} (from 0): score those responses "
            "again or leave the pairs out."
        )
    raw = np.full((len(table.prompt_of), scores.shape[1]), np.nan)
    raw[rows] = scores
    if np.isnan(raw).any():
        raise ValueError(f"Response {int(np.isnan(raw).any(axis=1).argmax())} has no score, being in no pair: drop it.")
    if (raw[rows] != scores).any():
        first = int((raw[rows] != scores).any(axis=1).argmax())
        other = int(((rows == rows[first]) & (scores != scores[first]).any(axis=1)).argmax())
        raise ValueError(
            f"Response {rows[first]} has different scores in different pairs: give it one in pairs "
            f"{first % len(table)} and {other % len(table)} (from 0)."
        )
    return raw


def _in_one_unit(raw: Float64s, table: PairTable) -> Float64s:
    """Members [C, members] with the mean of their sizes of gaps and of their levels; a single one stays as it is."""
    size = np.sqrt(np.square(raw[table.chosen] - raw[table.rejected]).mean(axis=0))
    scaled = raw * np.divide(size.mean(), size, out=np.ones_like(size), where=size > 0)
    level = scaled.mean(axis=0)
    return scaled + (level.mean() - level)


def _calibrated(
    raw: Float64s,
    table: PairTable,
    prompt_cluster: Ints,
    unit: Float64s,
    settings: RewardConfig,
    penalties: dict[str, Any] | None,
) -> RewardScores:
    mean, fitted, limit = raw.mean(axis=1), Calibration.none(len(unit)), np.inf
    if settings.calibration:
        limit = settings.max_reward
        fitted = fit_calibration(mean, table, prompt_cluster, unit, strength=settings.calibration_strength)
    response_cluster = prompt_cluster[table.prompt_of]
    calibrated = calibrate(mean, response_cluster, fitted.centre, fitted.slope, limit)
    report = report_rewards(mean, calibrated, fitted.slope, fitted.trust, table, prompt_cluster[table.prompt])
    return RewardScores(
        raw=raw,
        calibrated=calibrated,
        members_calibrated=calibrate(raw, response_cluster, fitted.centre, fitted.slope, limit),
        **fitted._asdict(),
        report=report | {"penalties": penalties},
    )
