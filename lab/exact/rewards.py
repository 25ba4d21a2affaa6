"""Reward models of a world: the library's own, under several settings, and the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.config import ClusterConfig, RewardConfig
from iwpo_fast.importance import PairRewards, noise_share
from iwpo_fast.rewards import PairFeatures, PairTable, fit_clusters, score_pairs
from lab.exact.worlds import World, longer_is_chosen

CLUSTERS = ClusterConfig(backend="sklearn")
ONE_CLUSTER = replace(CLUSTERS, count=1)
SINGLE = RewardConfig(ensemble=1)
PLAIN = RewardConfig(ensemble=1, folds=1, residual=None, calibration=False)
BIAS_LEVELS = (0.2, 0.4, 0.6, 0.8)
Floats = NDArray[np.float64]

REWARD_MODELS: Mapping[str, tuple[RewardConfig, ClusterConfig]] = {
    "single": (SINGLE, CLUSTERS),
    "ensemble": (RewardConfig(), CLUSTERS),
    "hidden_states": (RewardConfig(likelihood=False), CLUSTERS),
    "one_cluster": (SINGLE, ONE_CLUSTER),
    "uncalibrated": (replace(SINGLE, calibration=False), CLUSTERS),
    "in_sample": (replace(SINGLE, folds=1), CLUSTERS),
    "overlap": (replace(SINGLE, overlap=0.1), CLUSTERS),
    "plain": (PLAIN, ONE_CLUSTER),
}


@dataclass(frozen=True)
class PairScores:
    """What a reward model says of the pairs.

    Attributes:
        rewards: as `iwpo_fast.importance` takes them.
        gaps: [n, members], reward gaps of the members of an ensemble.
    """

    rewards: PairRewards
    gaps: Floats


def score(world: World, model: str, seed: int) -> PairScores:
    """Rewards of the pairs of a world: one of `REWARD_MODELS`, `oracle`, or the `biased_family` of e-DPO."""
    if model == "oracle":
        gold = world.train.gold.gather(1, world.candidates).double().numpy()
        return true_scores(gold, world.train.task.numpy(), len(world.scale))
    if model == "biased_family":
        return _biased_family(world, seed)
    settings, cluster_settings = REWARD_MODELS[model]
    return _score_rows(world, settings, cluster_settings, np.arange(len(world.candidates)), seed)


def _score_rows(
    world: World, settings: RewardConfig, cluster_settings: ClusterConfig, pairs: NDArray[np.int64], seed: int
) -> PairScores:
    """Learn from some pairs, perhaps repeated, and score all."""
    count, candidates = world.candidates.shape
    prompts = np.arange(count)
    features = world.train.features[prompts[:, None], world.candidates].flatten(0, 1).numpy()
    table = PairTable(
        prompt=pairs,
        chosen=candidates * pairs,
        rejected=candidates * pairs + 1,
        prompt_of=np.repeat(prompts, candidates),
    )
    prompt_features = world.train.prompt_features.numpy()
    clusters = fit_clusters(prompt_features, table.pairs_per_prompt(count), cluster_settings, seed=seed)
    cluster = clusters.assign(prompt_features)
    scores = score_pairs(PairFeatures(table, prompt_features, features), cluster, settings, seed=seed)
    chosen, rejected = candidates * prompts, candidates * prompts + 1
    gaps = scores.members_calibrated[chosen] - scores.members_calibrated[rejected]
    calibrated, noise = scores.calibrated, noise_share(gaps)
    return PairScores(PairRewards(calibrated[chosen], calibrated[rejected], cluster, scores.trust, noise=noise), gaps)


def true_scores(gold: Floats, task: NDArray[np.int64], tasks: int) -> PairScores:
    """Gold rewards of chosen, rejected and perhaps other completions, [n, 2 or more], in log-odds, with full trust.

    They are centred in each task and clipped as calibrated rewards are.
    """
    mean = np.bincount(task, gold.mean(1), tasks) / np.maximum(np.bincount(task, minlength=tasks), 1)
    limit = RewardConfig().max_reward
    centred = np.clip(gold - mean[task][:, None], -limit, limit)
    rewards = PairRewards(centred[:, 0], centred[:, 1], task, np.ones(tasks))
    return PairScores(rewards, rewards.gap[:, None])


def _biased_family(world: World, seed: int) -> PairScores:
    """One model for each share of longer chosen completions, by resampling pairs.

    The family over which arXiv 2405.19316 is pessimistic, as understood here.
    """
    longer = longer_is_chosen(world.train, world.candidates).numpy()
    share = longer.mean()
    random = np.random.default_rng(seed)
    scored = []
    for level in BIAS_LEVELS:
        chance = np.where(longer, level / share, (1 - level) / (1 - share))
        rows = random.choice(len(longer), len(longer), p=chance / chance.sum())
        scored.append(_score_rows(world, SINGLE, CLUSTERS, rows, seed))
    return PairScores(scored[0].rewards, np.concatenate([s.gaps for s in scored], axis=1))
