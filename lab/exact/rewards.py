"""Reward models of a world: the library's own, under several settings, and the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iwpo_fast.config import ClusterConfig, FamilyConfig, RewardConfig
from iwpo_fast.importance import PairRewards, noise_share
from iwpo_fast.rewards import Clusters, PairFeatures, PairTable, RewardScores, cluster_prompts, score_pairs
from iwpo_fast.rewards.checks import uses_likelihood
from iwpo_fast.rewards.reward_model import RewardModel
from lab.exact.policy import tokens_of
from lab.exact.worlds import COMPLETIONS, World, longer_is_chosen

CLUSTERS = ClusterConfig(backend="sklearn")
ONE_CLUSTER = replace(CLUSTERS, count=1)
# Spelt out, so that models stay what they are when the library's defaults change.
LINEAR = RewardConfig(heads="linear")
SINGLE = replace(LINEAR, ensemble=1)
PLAIN = replace(LINEAR, ensemble=1, folds=1, residual=None, calibration=False)
BIAS_LEVELS = (0.2, 0.4, 0.6, 0.8)
ALL = "all"
Floats = NDArray[np.float64]

REWARD_MODELS: Mapping[str, tuple[RewardConfig, ClusterConfig]] = {
    "single": (SINGLE, CLUSTERS),
    "ensemble": (LINEAR, CLUSTERS),
    "family": (replace(LINEAR, family=FamilyConfig()), CLUSTERS),
    "balanced": (replace(LINEAR, family=FamilyConfig(rates=[0.5])), CLUSTERS),
    "subsets": (replace(LINEAR, family=FamilyConfig(rates=[], subsets=5)), CLUSTERS),
    "auto": (RewardConfig(heads="auto"), CLUSTERS),
    "hidden_states": (replace(LINEAR, likelihood=False), CLUSTERS),
    "mixture": (LINEAR, replace(CLUSTERS, method="mixture")),
    "ensemble_one_cluster": (LINEAR, ONE_CLUSTER),
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
        candidates: rewards [n, 2 + K] of chosen, rejected and sampled completions of every prompt.
        completions: [n, 2 + K], which they are.
        model: what scored them, to score others; None for rewards that no heads made.
    """

    rewards: PairRewards
    gaps: Floats
    candidates: Floats | None = None
    completions: NDArray[np.int64] | None = None
    model: RewardModel | None = None

    def with_samples(self, count: int) -> PairScores:
        """With the first `count` sampled completions alone."""
        if self.candidates is None or self.completions is None:
            return self
        return replace(self, candidates=self.candidates[:, : 2 + count], completions=self.completions[:, : 2 + count])


def scores_by_model(world: World, models: Iterable[str], seed: int) -> dict[str, PairScores]:
    """As `score` gives them; a model is fitted once, and what it says of sampled completions is cut to their number."""
    samples: dict[str, list[int]] = {}
    found = {}
    for model in dict.fromkeys(models):
        name, _, count = model.partition("+")
        if count == ALL:
            found[model] = score(world, model, seed)
        else:
            samples.setdefault(name, []).append(int(count or 0))
    for name, counts in samples.items():
        whole = score(world, f"{name}+{max(counts)}" if max(counts) else name, seed)
        found |= {f"{name}+{count}" if count else name: whole.with_samples(count) for count in counts}
    return found


def score(world: World, model: str, seed: int) -> PairScores:
    """Rewards of the pairs of a world: one of `REWARD_MODELS`, `oracle`, or the `biased_family` of e-DPO.

    With `+K` behind the name of a model, it also scores K completions that are sampled from the reference policy, with
    `+all` all that there are.
    """
    if model == "oracle":
        gold = world.train.gold.gather(1, world.candidates).double().numpy()
        return true_scores(gold, world.train.task.numpy(), len(world.scale))
    if model == "biased_family":
        return _biased_family(world, seed)
    model, _, samples = model.partition("+")
    settings, cluster_settings = REWARD_MODELS[model]
    completions = world.candidates
    if samples == ALL:
        completions = torch.cat([completions[:, :2], torch.arange(COMPLETIONS).expand(len(completions), -1)], 1)
    elif samples:
        completions = torch.cat([completions[:, :2], sampled(world, int(samples), seed)], 1)
    return _score_rows(world, settings, cluster_settings, np.arange(len(completions)), seed, completions)


def score_by(world: World, settings: RewardConfig, cluster_settings: ClusterConfig, *, seed: int) -> PairScores:
    """Rewards of the labelled pairs alone, by a model of these settings."""
    pairs = np.arange(len(world.candidates))
    return _score_rows(world, settings, cluster_settings, pairs, seed, world.candidates)


def sampled(world: World, count: int, seed: int) -> Tensor:
    """[n, count], completions of the reference policy for every prompt, drawn with replacement."""
    random = torch.Generator().manual_seed(3_000_000 + seed)
    return torch.multinomial(world.train.ref_logps.exp(), count, replacement=True, generator=random)


def _score_rows(
    world: World,
    settings: RewardConfig,
    cluster_settings: ClusterConfig,
    pairs: NDArray[np.int64],
    seed: int,
    completions: Tensor,
) -> PairScores:
    """Learn from some pairs, perhaps repeated, and score all completions [n, 2 or more]."""
    count, candidates = completions.shape
    prompts = np.arange(count)
    features = world.train.features[prompts[:, None], completions].flatten(0, 1).numpy()
    table = PairTable(
        prompt=pairs,
        chosen=candidates * pairs,
        rejected=candidates * pairs + 1,
        prompt_of=np.repeat(prompts, candidates),
    )
    prompt_features = world.train.prompt_features.numpy()
    tokens = tokens_of(world.train.length[prompts[:, None], completions]).round().long().flatten()
    of_pairs = PairFeatures(table, prompt_features, features, lengths=tokens.numpy())
    clusters, cluster, _ = cluster_prompts(of_pairs, cluster_settings, settings, seed=seed)
    scores = score_pairs(of_pairs, cluster, settings, seed=seed)
    chosen, rejected = candidates * prompts, candidates * prompts + 1
    gaps = scores.members_calibrated[chosen] - scores.members_calibrated[rejected]
    calibrated, noise = scores.calibrated, noise_share(gaps)
    rewards = PairRewards(
        calibrated[chosen], calibrated[rejected], cluster, scores.trust, noise=noise, reliability=scores.reliability
    )
    model = learnt(of_pairs, clusters, scores, settings, seed=seed)
    return PairScores(rewards, gaps, calibrated.reshape(count, candidates), completions.numpy(), model)


def learnt(
    features: PairFeatures, clusters: Clusters, scores: RewardScores, settings: RewardConfig, *, seed: int
) -> RewardModel:
    """The reward model behind scores, for prompts that it has not seen."""
    assert scores.heads is not None
    record = {
        "features": {"likelihood": uses_likelihood(settings) and features.mean_logps is not None},
        "seed": seed,
        "max_reward": settings.max_reward if settings.calibration else None,
    }
    return RewardModel(clusters, scores.heads, scores.calibration, frozenset(), record, scores.report, scores.pessimism)


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
        scored.append(_score_rows(world, SINGLE, CLUSTERS, rows, seed, world.candidates))
    return PairScores(scored[0].rewards, np.concatenate([s.gaps for s in scored], axis=1))
