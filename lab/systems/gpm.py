"""Preferences that turn in a circle: no reward of each response alone can have them, and preference embeddings can."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np

from iwpo_fast.config import RewardConfig
from iwpo_fast.rewards import PairFeatures, PairTable, score_pairs
from lab.systems.shown import Shown

CLAIM = (
    "On cyclic preferences between kinds of responses, Bradley-Terry heads (linear and mlp) are right in at most 63 % "
    "of held-out pairs in every world and seed, and preference embeddings (gpm) in 100 %."
)
MOST_OF_REWARDS = 0.63
FEATURES, NOISE, SEEDS = 32, 0.3, 3
HEADS = ("linear", "mlp", "gpm")

Beats = Callable[[int, int, int], bool]
"""Whether a response of one kind beats another in a cluster of prompts."""


def cycle_of(kinds: int) -> Beats:
    """Each kind beats the (kinds - 1) / 2 that follow it: rock, scissors, paper for three."""
    return lambda first, second, cluster: (second - first) % kinds <= kinds // 2


def turning(first: int, second: int, cluster: int) -> bool:
    """A cycle of three that goes the other way round for half of the prompts."""
    return cycle_of(3)(first, second, cluster) != (cluster == 1)


def ranked(first: int, second: int, cluster: int) -> bool:
    """No cycle: kinds have a reward."""
    return first < second


WORLDS: dict[str, tuple[int, int, Beats]] = {
    "cycle of 3": (3, 1, cycle_of(3)),
    "cycle of 5": (5, 1, cycle_of(5)),
    "cycle of 3, turned in half of the prompts": (3, 2, turning),
}
RANKED = "no cycle: a reward"


def show(*, short: bool) -> Shown:
    prompts, seeds = (12, 1) if short else (200, SEEDS)
    cyclic_worlds = dict(list(WORLDS.items())[:1]) if short else WORLDS
    worlds = cyclic_worlds | {RANKED: (3, 1, ranked)}
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        world: {heads: [accuracy(*given, prompts, heads, seed) for seed in range(seeds)] for heads in HEADS}
        for world, given in worlds.items()
    }
    cyclic = [found[world] for world in cyclic_worlds]
    holds = all(
        of_seed["pairs"] <= MOST_OF_REWARDS for world in cyclic for heads in HEADS[:2] for of_seed in world[heads]
    ) and all(of_seed["pairs"] == 1 for world in cyclic for of_seed in world["gpm"])
    rows = [("preferences", "linear", "mlp", "gpm", "gpm, by rewards of single responses")]
    for world, of_heads in found.items():
        cells = [_range([of_seed["pairs"] for of_seed in of_heads[heads]]) for heads in HEADS]
        rows.append((world, *cells, _range([of_seed["rewards"] for of_seed in of_heads["gpm"]])))
    note = (
        f"Held-out pairs that are right, least to most of {seeds} seeds; all pairs of the responses of {prompts} "
        f"prompts, one response of each kind; {FEATURES} features, and a kind is a point among them with noise of "
        f"{NOISE} around it. The last column is what is left where every response must have one reward, "
        "its mean score against the others of its prompt: nothing, because in a cycle each beats as many as beat it."
    )
    return Shown(CLAIM, holds, rows, {"held_out_accuracy": found, "prompts": prompts}, note)


def accuracy(kinds: int, clusters: int, beats: Beats, prompts: int, heads: Any, seed: int) -> dict[str, float]:
    """Share of the pairs that heads which did not see them get right, by scores of pairs and by rewards."""
    features, cluster = world_of(kinds, clusters, beats, prompts, seed)
    report = score_pairs(features, cluster, RewardConfig(heads=heads), seed=seed).report
    rewards = report["total"]["accuracy"]
    of_pairs = report["penalties"].get("preferences", {}).get("pair_accuracy", rewards)
    return {"pairs": of_pairs, "rewards": rewards}


def world_of(kinds: int, clusters: int, beats: Beats, prompts: int, seed: int) -> tuple[PairFeatures, np.ndarray]:
    """All pairs of one response of each kind to every prompt, and the clusters of the prompts."""
    draw = np.random.default_rng(seed)
    points = draw.standard_normal((kinds, FEATURES))
    cluster = np.arange(prompts) % clusters
    kind = np.tile(np.arange(kinds), prompts)
    responses = points[kind] + NOISE * draw.standard_normal((len(kind), FEATURES))
    better = [
        (i, j) if beats(i, j, int(cluster[prompt])) else (j, i)
        for prompt in range(prompts)
        for i, j in combinations(range(kinds), 2)
    ]
    prompt = np.repeat(np.arange(prompts), kinds * (kinds - 1) // 2)
    chosen, rejected = np.array(better).T + kinds * prompt
    table = PairTable(prompt, chosen, rejected, np.repeat(np.arange(prompts), kinds))
    seen = draw.standard_normal((prompts, FEATURES)).astype(np.float32)
    return PairFeatures(table, seen, responses.astype(np.float32), None, list(range(prompts))), cluster


def _range(values: list[float]) -> str:
    low, high = (f"{100 * value:.1f} %" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
