"""Seconds of clustering, reward heads and weights at the sizes of a real preference data set, on a CPU.

    python -m benchmarks.rewards

Random data with the structure that makes the work real: clustered prompts, features whose spectrum decays, rewards that
are linear in them with a part of their own in each cluster, and Bradley-Terry labels. Features lie in a memory-mapped
float16 file, as the pipeline leaves them. Needs 1 GB of disk for a while.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.environment import describe, slug
from iwpo_fast.config import ClusterConfig, RewardConfig, WeightConfig
from iwpo_fast.files import save_json
from iwpo_fast.importance import PairRewards, pair_weights
from iwpo_fast.rewards import PairFeatures, PairTable, RewardScores, fit_clusters, score_pairs

RESULTS = Path(__file__).parent / "results"
CLUSTERS = 8
BLOCK = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="a hundredth of the rows, to see that it works")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--commit", help="where git cannot tell")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    torch.set_num_threads(options.threads)
    share = 100 if options.small else 1
    facts = describe(torch.device("cpu"), options.commit)
    records = [
        kmeans(120_000 // share, 1024),
        heads(60_000 // share, 4096),
        *networks(60_000 // share, 4096),
        *weights(1_000_000 // share),
    ]
    for record in records:
        print(f"{record['what']}: {record['seconds']:.1f} s, target under {record['target']:g} s")
    result = {"schema": 1, "date": date.today().isoformat(), "environment": facts, "records": records}
    save_json(options.out / f"rewards-{slug(facts)}{'-small' * options.small}.json", result)


def kmeans(rows: int, width: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((64, width), dtype=np.float32)
    prompts = (rng.standard_normal((rows, 64), dtype=np.float32) @ spread).astype(np.float16)
    settings = ClusterConfig(count=CLUSTERS)
    what = f"k-means of {rows:,} x {width}, {CLUSTERS} clusters, all rows assigned"
    ones = np.ones(rows, dtype=np.int64)
    return timed(what, 60, lambda: fit_clusters(prompts, ones, settings, seed=0).assign(prompts))


def heads(pairs: int, width: int) -> dict[str, Any]:
    """Linear heads: penalties by cross-validation, four folds, an ensemble of four, calibration."""
    with made_pairs(pairs, width, squares=0.0) as (of_pairs, cluster):
        what = f"reward heads, {pairs:,} pairs x {width}, chosen, cross-fitted, ensemble of 4, calibrated"
        return timed(what, 120, lambda: score_pairs(of_pairs, cluster, RewardConfig(heads="linear"), seed=0))


def networks(pairs: int, width: int) -> list[dict[str, Any]]:
    """Linear heads, and networks beside them, of rewards that have a part which no linear head sees."""
    found = dict[str, RewardScores]()
    with made_pairs(pairs, width, squares=1.0) as (of_pairs, cluster):

        def fit(heads: Literal["linear", "auto"]) -> None:
            found[heads] = score_pairs(of_pairs, cluster, RewardConfig(heads=heads), seed=0)

        what = f"{pairs:,} pairs x {width}, rewards with squares"
        linear = timed(f"linear heads, {what}", 120, lambda: fit("linear"))
        auto = timed(f"networks where they are better, {what}", 3 * linear["seconds"], lambda: fit("auto"))
    for record, scores in ((linear, found["linear"]), (auto, found["auto"])):
        record["accuracy"] = round(scores.report["total"]["accuracy"], 4)
    auto["networks"] = found["auto"].report["penalties"]["networks"]
    auto["cpu_seconds_over_linear"] = round(auto["cpu_seconds"] / linear["cpu_seconds"], 2)
    return [linear, auto]


@contextmanager
def made_pairs(pairs: int, width: int, *, squares: float) -> Iterator[tuple[PairFeatures, np.ndarray]]:
    """Pairs with their features on disk, and clusters of their prompts.

    Args:
        squares: size of a part of the rewards that is quadratic in the features, relative to the linear part.
    """
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, CLUSTERS, pairs)
    shared, residual = rng.standard_normal(width), 0.5 * rng.standard_normal((CLUSTERS, width))
    directions = (
        rng.standard_normal((256, width), dtype=np.float32) * np.linspace(2, 0.05, 256, dtype=np.float32)[:, None]
    )
    with tempfile.TemporaryDirectory() as folder:
        shape = (2 * pairs, width)
        features = np.lib.format.open_memmap(Path(folder) / "features.npy", "w+", np.float16, shape)
        truth, bent = np.empty(2 * pairs), np.empty(2 * pairs)
        for start in range(0, 2 * pairs, BLOCK):
            stop = min(start + BLOCK, 2 * pairs)
            noise = 0.7 * rng.standard_normal((stop - start, width), dtype=np.float32)
            sources = rng.standard_normal((stop - start, 256), dtype=np.float32)
            block = sources @ directions / 8 + noise
            features[start:stop] = block
            vectors = shared + residual[cluster.repeat(2)[start:stop]]
            truth[start:stop] = np.einsum("nd,nd->n", block, vectors)
            bent[start:stop] = np.square(sources[:, :4]).sum(axis=1)
        gap = truth[0::2] - truth[1::2]
        gap = gap / gap.std()
        if squares:
            other = bent[0::2] - bent[1::2]
            gap = gap + squares * other / other.std()
        second = rng.random(pairs) > 1 / (1 + np.exp(-0.6 * gap))
        prompt = np.arange(pairs)
        table = PairTable(prompt, 2 * prompt + second, 2 * prompt + 1 - second, prompt.repeat(2))
        yield PairFeatures(table, features[::2], features), cluster


def weights(pairs: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    chosen, rejected = np.clip(rng.normal((0.3, 0.0), 1.5, (pairs, 2)), -5, 5).T
    cluster = rng.integers(0, CLUSTERS, pairs)
    rewards = PairRewards(chosen, rejected, cluster, np.full(CLUSTERS, 0.8), noise=0.2)
    strong = WeightConfig(form="strong")
    return [
        timed(f"weights of {pairs:,} pairs, {name}", 10, lambda given=given: pair_weights(rewards, given, seed=0))
        for name, given in (("posterior labels", WeightConfig()), ("strong form", strong))
    ]


def timed(what: str, target: float, call: Callable[[], object]) -> dict[str, Any]:
    load, started, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    call()
    seconds = time.perf_counter() - started
    return {
        "what": what,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "target": target,
        "met": seconds < target,
        "load_before": round(load, 2),
    }


if __name__ == "__main__":
    main()
