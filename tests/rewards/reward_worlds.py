"""Made-up pairs whose rewards are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iwpo_fast.config import RewardConfig
from iwpo_fast.rewards import PairFeatures, PairTable, RewardScores, score_pairs

FIXED = {"ridge": 1e-3, "residual": 1e-2}


@dataclass(frozen=True)
class World:
    prompt_features: np.ndarray
    response_features: np.ndarray
    table: PairTable
    cluster: np.ndarray


def make_world(
    *,
    pairs: int = 1200,
    features: int = 24,
    clusters: int = 3,
    residual: float = 0.5,
    labels: str = "noisy",
    seed: int = 0,
) -> World:
    """Two responses per prompt, with rewards linear in their features and a residual direction per cluster.

    `labels`: `noisy` by the Bradley-Terry model, `random`, or `flipped` against it.
    """
    draw = np.random.default_rng(seed)
    cluster = draw.integers(clusters, size=pairs)
    corners = 4 * draw.standard_normal((clusters, features))
    prompt_features = (corners[cluster] + draw.standard_normal((pairs, features))).astype(np.float32)
    responses = draw.standard_normal((2 * pairs, features)).astype(np.float32)
    shared = draw.standard_normal(features) * 2 / np.sqrt(features)
    own = draw.standard_normal((clusters, features)) * 2 * residual / np.sqrt(features)
    reward = (responses * (shared + own[cluster.repeat(2)])).sum(axis=1)
    second = draw.random(pairs) > 1 / (1 + np.exp(-(reward[::2] - reward[1::2])))
    if labels == "random":
        second = draw.random(pairs) < 0.5
    elif labels == "flipped":
        second = ~second
    prompt = np.arange(pairs)
    table = PairTable(prompt, 2 * prompt + second, 2 * prompt + ~second, prompt.repeat(2))
    return World(prompt_features, responses, table, cluster)


def score(world: World, *, seed: int = 0, prompt_keys=None, mean_logps=None, **settings) -> RewardScores:
    features = PairFeatures(world.table, world.prompt_features, world.response_features, mean_logps, prompt_keys)
    return score_pairs(features, world.cluster, RewardConfig(**({"heads": "linear"} | settings)), seed=seed)
