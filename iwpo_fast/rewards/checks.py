"""What rewards cannot be learnt from, each with what to give instead: scores, shapes, folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from iwpo_fast.config import RewardConfig
from iwpo_fast.rewards.blocks import Ints
from iwpo_fast.rewards.pair_table import PairFeatures, PairTable


def uses_likelihood(settings: RewardConfig) -> bool:
    """Whether heads read the mean log-prob of a response."""
    return settings.tuning is None if settings.likelihood == "auto" else settings.likelihood


def reads_scores(settings: RewardConfig) -> bool:
    """Whether rewards are made of scores of the data."""
    return settings.source == "columns" or settings.learns_from_votes


def check_has_scores(columns: Mapping[str, np.ndarray], settings: RewardConfig) -> None:
    """Raise ValueError unless the columns of the data have the scores that rewards are made of."""
    if "score_chosen" in columns:
        return
    asked, instead = (
        ("source is columns", "source to features")
        if settings.source == "columns"
        else ("heads is dprm", "heads to auto")
    )
    raise ValueError(
        f"rewards.{asked} but the data have no score_chosen and score_rejected: add them, or set rewards.{instead}."
    )


def check_clusters(prompt_cluster: Ints, table: PairTable) -> None:
    """Raise ValueError unless every prompt has a cluster."""
    if prompt_cluster.ndim != 1 or len(prompt_cluster) <= table.prompt_of.max() or prompt_cluster.min() < 0:
        raise ValueError(
            f"{len(prompt_cluster)} clusters of prompts do not fit prompts up to row {table.prompt_of.max()}: give "
            "each prompt its cluster, from 0 up."
        )


def check_features(features: PairFeatures, settings: RewardConfig) -> None:
    """Raise ValueError unless every response has its features, and log-prob and length where they are read."""
    responses, mean_logps = len(features.table.prompt_of), features.mean_logps
    if features.response.ndim != 2 or len(features.response) != responses:
        raise ValueError(
            f"Response features have shape {features.response.shape}, but the table has {responses} "
            "responses: give one row of features for each."
        )
    if settings.likelihood is True and mean_logps is None:
        raise ValueError("rewards.likelihood is true without mean log-probs: give mean_logps, or set it to auto.")
    if settings.family is not None and settings.family.biased and features.lengths is None:
        raise ValueError(
            "rewards.family.rates are of the lengths of responses, which the features do not have: give lengths, or "
            "members by subsets alone."
        )
    if uses_likelihood(settings) and mean_logps is not None and mean_logps.shape != (responses,):
        raise ValueError(f"Mean log-probs have shape {mean_logps.shape} for {responses} responses: give one for each.")


def check_prompt_keys(keys: Sequence[bytes | str | int], prompts: int, settings: RewardConfig) -> None:
    """Raise ValueError unless every prompt has a key, and there are as many different prompts as folds."""
    if len(keys) != prompts:
        raise ValueError(f"There are {len(keys)} prompt keys for {prompts} prompts: give one for each.")
    different = len(set(keys))
    if settings.folds > different:
        raise ValueError(
            f"rewards.folds is {settings.folds}, but there are {different} different prompts: lower it, or give pairs "
            "of more prompts."
        )


def check_folds(pair_fold: Ints, folds: int) -> None:
    """Raise ValueError where one fold holds all pairs."""
    if (np.bincount(pair_fold, minlength=folds) == len(pair_fold)).any():
        raise ValueError(
            f"All {len(pair_fold)} pairs fall into one of {folds} folds, so none are left to learn from: "
            "give pairs of more prompts."
        )
