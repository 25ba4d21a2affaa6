"""Group the prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from iwpo_fast.config import RunConfig
from iwpo_fast.files import save_tensors
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Result, sections
from iwpo_fast.rewards import PairFeatures, cluster_prompts
from iwpo_fast.rewards.checks import uses_likelihood
from iwpo_fast.rewards.kmeans import choose_backend
from iwpo_fast.rewards.report import mixture_lines
from iwpo_fast.words import several

WHAT = "groups of prompts"
NEEDS = ("reference",)


def settings(config: RunConfig) -> dict[str, Any]:
    learnt = config.clusters.method == "mixture"
    of_heads = {"folds": config.rewards.folds, "likelihood": uses_likelihood(config.rewards)} if learnt else {}
    return sections(config, "clusters", "seed") | of_heads


def outputs(folder: PipelineFolder) -> list[Path]:
    return [folder.clusters, folder.prompt_clusters]


def check(job: PipelineJob) -> None:
    """Raise ValueError if the k-means that is asked for cannot run here."""
    choose_backend(job.config.clusters.backend)


def on_all_ranks(job: PipelineJob) -> PairFeatures:
    return job.load_features()


def run(job: PipelineJob, features: PairFeatures) -> Result:
    config = job.config
    clusters, assigned, report = cluster_prompts(features, config.clusters, config.rewards, seed=config.seed)
    clusters.save(job.folder.clusters)
    save_tensors(job.folder.prompt_clusters, {"cluster": torch.from_numpy(assigned)})
    sizes = np.bincount(assigned[job.read_table().prompt], minlength=clusters.count).tolist()
    for line in mixture_lines(report):
        print(line)
    counts = ", ".join(f"{size:,}" for size in sizes)
    print(f"{several(clusters.count, 'cluster')} of {counts} {'pair' if counts == '1' else 'pairs'}", end="")
    print(_merged_words(len(clusters.merged), clusters.count, config.clusters.min_pairs))
    return {"clusters": clusters.count, "pairs_per_cluster": sizes} | ({"mixture": report} if report else {})


def _merged_words(found: int, kept: int, min_pairs: int) -> str:
    """What became of clusters that had too few pairs; nothing where all are there."""
    if found == kept:
        return ""
    return f"; of the {found} found, those of under {min_pairs:,} pairs (clusters.min_pairs) joined their nearest"
