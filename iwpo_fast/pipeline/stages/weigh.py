"""Turn rewards into one weight and one soft label per pair, and write them beside the texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from iwpo_fast.config import RunConfig, WeightConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.rows import Rows, contents
from iwpo_fast.files import save_json
from iwpo_fast.importance import (
    PairRewards,
    PairWeights,
    pair_rewards,
    pair_weights,
    report_lines,
    save_histogram,
    weight_report,
)
from iwpo_fast.objectives import Mixture
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Result, sections
from iwpo_fast.pipeline.rows_file import write_rows
from iwpo_fast.rewards import PairTable

WHAT = "importance weights and soft labels"
NEEDS = ("prepare", "reference", "cluster", "reward")


def settings(config: RunConfig) -> dict[str, Any]:
    return sections(config, "weights", "seed") | {"leaves_room": _leaves_room(config)}


def outputs(folder: PipelineFolder) -> list[Path]:
    return [folder.weighted, folder.weight_report, folder.histogram]


def run(job: PipelineJob) -> Result:
    table, pairs, rows = job.read_table(), job.load_pairs(), job.load_rows()
    asked, row = _weight_settings(job.config, pairs), pairs.row
    soft_labels = asked.resolved().soft_labels
    assert len(row) == len(pairs)
    scores = load_file(job.folder.rewards)
    prompt_cluster, members = job.read_prompt_clusters(), scores["members_calibrated"]
    calibrated, trust, reliability = (scores[name] for name in ("calibrated", "trust", "reliability"))
    rewards = pair_rewards(calibrated, trust, table, prompt_cluster, members, reliability)
    weights = pair_weights(rewards, asked, seed=job.config.seed)
    report = weight_report(weights, rewards, texts=lambda pair: _text(rows, int(row[pair])))
    for line in report_lines(report):
        print(line)
    save_json(job.folder.weight_report, report)
    save_histogram(job.folder.histogram, report)
    weights.check(asked)
    reference = {name: values[row] for name, values in rows.columns.items() if name.startswith("ref_")}
    columns = _weight_columns(pairs, weights, soft_labels != 0) | _score_columns(rewards, table, scores)
    write_rows(job.folder.weighted, rows.without_candidates().take(row), reference | columns)
    return {
        "pairs": len(pairs),
        "noise": rewards.noise,
        "tau": weights.tau,
        "ess": weights.ess,
        "cluster_ess": weights.cluster_ess.tolist(),
        "soft_labels": soft_labels,
        "mean_label_smoothing": float(weights.label_smoothing.mean()),
    }


def _leaves_room(config: RunConfig) -> bool:
    """Whether `auto` may soften labels: the objective can smooth them and does not yet, and rewards are calibrated."""
    mixture = Mixture.of(config.objective)
    smooths_already = mixture.has_smoothing or config.objective.label_smoothing > 0
    return config.rewards.calibration and mixture.smooths_labels and not smooths_already


def _weight_settings(config: RunConfig, pairs: Pairs) -> WeightConfig:
    """`weights`, without `auto` soft labels where the data bring others or there is no room."""
    asked, of_data = config.weights, pairs.label_smoothing
    if asked.soft_labels != "auto" or asked.resolved().soft_labels == 0:
        return asked
    if of_data is not None and of_data.any():
        print("labels stay as the data smooth them; weights.soft_labels replaces that if it is a number or posterior")
    elif not _leaves_room(config):
        print("labels stay hard: the objective smooths them or cannot, or rewards are not calibrated")
    else:
        return asked
    return replace(asked, soft_labels=0.0, relative_variance=WeightConfig().relative_variance)


def _weight_columns(pairs: Pairs, weights: PairWeights, soft: bool) -> dict[str, np.ndarray]:
    """Weights are multiplied by those of the data; soft labels replace those of the data."""
    columns = {"weight": weights.weight * pairs.weight}
    if soft:
        columns["label_smoothing"] = weights.label_smoothing
    elif pairs.label_smoothing is not None:
        columns["label_smoothing"] = pairs.label_smoothing
    return columns


def _score_columns(rewards: PairRewards, table: PairTable, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    members, raw = scores["members_calibrated"], scores["raw"].mean(1)
    return {
        "cluster": rewards.cluster,
        "score_chosen": rewards.chosen,
        "score_rejected": rewards.rejected,
        "scores_chosen": members[table.chosen],
        "scores_rejected": members[table.rejected],
        "raw_score_chosen": raw[table.chosen],
        "raw_score_rejected": raw[table.rejected],
    }


def _text(rows: Rows, row: int) -> dict[str, str]:
    parts = {"prompt": rows.prompt, "chosen": rows.chosen, "rejected": rows.rejected}
    return {name: "\n".join(contents(part[row])) for name, part in parts.items()}
