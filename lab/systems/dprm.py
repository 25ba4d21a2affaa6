"""A population of annotators who grade differently, and whether heads recover what it thinks of a response."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy.stats import norm

from iwpo_fast.config import CategoryConfig, RewardConfig
from iwpo_fast.rewards import PairFeatures, PairTable, score_pairs
from iwpo_fast.rewards.distribution_heads import DistributionHeads, moments, wins
from iwpo_fast.rewards.scores import folds_for
from lab.systems.shown import Shown

CLAIM = (
    "Heads that learn distributions over grades by optimal transport recover the expected grade of a population of "
    "annotators with a smaller error, on the mean of the worlds and seeds, than the same heads by cross-entropy, and "
    "so they do the probability that of two responses the first is graded higher."
)
GRADES, FEATURES, SEEDS = 6, 24, 3
VOTES = (1, 4, 16)
LOSSES: tuple[Literal["transport", "cross_entropy"], ...] = ("transport", "cross_entropy")
WORLDS = {"one kind of annotators": 0.0, "two kinds that disagree": 1.5}
"""By how much the second kind of annotators, a third of all, sees another quality than the first."""


def show(*, short: bool) -> Shown:
    prompts, seeds, many = (40, 1, VOTES[:1]) if short else (300, SEEDS, VOTES)
    found: dict[str, Any] = {}
    rows = [("annotators", "votes", "grade, transport", "grade, cross-entropy", "P, transport", "P, cross-entropy")]
    for world, apart in WORLDS.items():
        for votes in many:
            errors = {loss: [recovered(prompts, votes, apart, loss, seed) for seed in range(seeds)] for loss in LOSSES}
            found[f"{world}, {votes} votes"] = errors
            means = [
                f"{np.mean([of_seed[of] for of_seed in errors[loss]]):.3f}"
                for of in ("grade", "probability")
                for loss in LOSSES
            ]
            rows.append((world, str(votes), *means))
    mean = {
        of: {loss: float(np.mean([e[of] for errors in found.values() for e in errors[loss]])) for loss in LOSSES}
        for of in ("grade", "probability")
    }
    rows.append(("mean", "", *(f"{mean[of][loss]:.3f}" for of in mean for loss in LOSSES)))
    holds = all(of_loss["transport"] < of_loss["cross_entropy"] for of_loss in mean.values())
    note = (
        f"Root mean square errors on responses of prompts that heads did not see, mean of {seeds} seeds: of the "
        f"expected grade, from 1 to {GRADES}, and of the probability P that one response of a pair is graded higher "
        f"than the other, equal grades half. {prompts} prompts of two responses, {FEATURES} features, each response "
        "graded by so many annotators; the truth is that of all annotators."
    )
    return Shown(CLAIM, holds, rows, {"errors": found, "mean": mean, "prompts": prompts}, note)


def recovered(prompts: int, votes: int, apart: float, loss: Any, seed: int) -> dict[str, float]:
    """Errors of the expected grade and of the probability of the higher grade, by heads of the other folds."""
    draw = np.random.default_rng(seed)
    features = draw.standard_normal((2 * prompts, FEATURES)).astype(np.float32)
    truth = population(features, apart, seed)
    grades = np.array([draw.choice(GRADES, size=votes, p=p) for p in truth]) + 1.0
    table = PairTable.plain(np.arange(prompts))
    first, second = 2 * np.arange(prompts), 2 * np.arange(prompts) + 1
    turned = grades[first].mean(axis=1) < grades[second].mean(axis=1)
    table = PairTable(table.prompt, np.where(turned, second, first), np.where(turned, first, second), table.prompt_of)
    given = PairFeatures(table, features[::2], features, None, list(range(prompts)))
    settings = RewardConfig(heads="dprm", categories=CategoryConfig(loss=loss, count=GRADES))
    scores = score_pairs(given, np.zeros(prompts, np.int64), settings, seed=seed, grades=grades)
    assert isinstance(scores.heads, DistributionHeads) and scores.win is not None
    fold = folds_for(given, prompts, settings, seed)[table.prompt_of]
    return {
        "grade": _error(held_out_grade(scores.heads, features, fold) - truth @ np.arange(1, GRADES + 1)),
        "probability": _error(scores.win - wins(truth[table.chosen], truth[table.rejected])),
    }


def population(features: np.ndarray, apart: float, seed: int) -> np.ndarray:
    """[n, d], how all annotators would grade: each sees a quality with noise of 1, and a third of them another one."""
    draw = np.random.default_rng(seed)
    shared, other = draw.standard_normal((2, FEATURES)) / np.sqrt(FEATURES)
    quality = 1.5 * features @ shared
    edges = np.linspace(-2, 2, GRADES - 1)
    kinds = [(2 / 3, quality), (1 / 3, quality + apart * features @ other)]
    below = sum(share * norm.cdf(edges - of_kind[:, None]) for share, of_kind in kinds)
    return np.diff(below, prepend=0.0, append=1.0, axis=1)


def held_out_grade(heads: DistributionHeads, features: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """[n], expected grade by the heads that did not see the prompt of the response."""
    ((_, every),) = heads.distributions((features,), np.zeros(len(features), np.int64))
    expected, _ = moments(every[np.arange(len(every)), fold], heads.values)
    return expected.mean(axis=1)


def _error(difference: np.ndarray) -> float:
    return float(np.sqrt(np.square(difference).mean()))
