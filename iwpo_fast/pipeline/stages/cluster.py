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
from iwpo_fast.rewards import PairFeatures, fit_clusters
from iwpo_fast.rewards.kmeans import choose_backend

WHAT = "groups of prompts"
NEEDS = ("reference",)


def settings(config: RunConfig) -> dict[str, Any]:
    return sections(config, "clusters", "seed")


def outputs(folder: PipelineFolder) -> list[Path]:
    return [folder.clusters, folder.prompt_clusters]


def check(job: PipelineJob) -> None:
    """Raise ValueError if the k-means that is asked for cannot run here."""
    choose_backend(job.config.clusters.backend)


def on_all_ranks(job: PipelineJob) -> PairFeatures:
    return job.load_features()


def run(job: PipelineJob, features: PairFeatures) -> Result:
    table = job.read_table()
    counts = table.pairs_per_prompt(len(features.prompt))
    clusters = fit_clusters(features.prompt, counts, job.config.clusters, seed=job.config.seed)
    clusters.save(job.folder.clusters)
    assigned = clusters.assign(features.prompt)
    save_tensors(job.folder.prompt_clusters, {"cluster": torch.from_numpy(assigned)})
    sizes = np.bincount(assigned[table.prompt], minlength=clusters.count).tolist()
    print(f"{clusters.count} clusters of {', '.join(f'{size:,}' for size in sizes)} pairs")
    return {"clusters": clusters.count, "pairs_per_cluster": sizes}
