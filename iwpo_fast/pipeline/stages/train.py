"""Train on the weighted pairs, as `iwpo train` would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from iwpo_fast.config import CheckpointConfig, RunConfig, TrainConfig, dataclass_from
from iwpo_fast.models.reference_cache import keep_logps
from iwpo_fast.objectives import Mixture
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.pipeline.card import card_paragraph
from iwpo_fast.pipeline.folder import PipelineFolder, files_in
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Result, sections
from iwpo_fast.pipeline.origin import read_written
from iwpo_fast.pipeline.stages import reference
from iwpo_fast.training import train
from iwpo_fast.training.summary import TrainSummary

WHAT = "optimise the policy"
NEEDS = ("prepare", "weigh")


def settings(config: RunConfig) -> dict[str, Any]:
    settings = reference.settings(config) | sections(config, "objective", "optim", "deterministic")
    kept, plain = config.checkpoint, CheckpointConfig()
    # Left out where they are the default, as before there was a choice, so that stages done then stay done.
    if kept.dtype != plain.dtype:
        settings["saved as"] = kept.dtype
    if kept.best != plain.best:
        settings["best"] = [kept.best, kept.patience, config.log.eval_every]
    if config.reference_sync is not None:
        settings |= sections(config, "reference_sync")
    return settings


def outputs(folder: PipelineFolder) -> list[Path]:
    return [folder.training / "summary.json", *files_in(folder.training / "model")]


def resumes(folder: PipelineFolder) -> Path:
    return folder.training


def on_all_ranks(job: PipelineJob) -> TrainSummary:
    _keep_logps(job)
    job.free()
    summary = train(_train_config(job), read=read_written, about=card_paragraph(job))
    assert summary is not None
    return summary


def run(job: PipelineJob, summary: TrainSummary) -> Result:
    return summary.as_json() | {"output_dir": job.folder.training.name}


def _keep_logps(job: PipelineJob) -> None:
    """Spare training a pass over drawn pairs and samples: the stage `reference` has run all of their responses."""
    has_drawn = job.folder.preferred.exists() or job.config.weights.forward_kl == "samples"
    if not has_drawn or not Mixture.of(job.config.objective).uses_reference:
        return
    keep_logps(job.cache_dir(), job.load_policy(), job.read_weighted(), job.load_pairs(), job.world)


def _train_config(job: PipelineJob) -> TrainConfig:
    """The pipeline's training settings, applied to its files."""
    # Rewards are made for training pairs only, so an objective that reads them has no loss on held-out pairs.
    reads_scores = Mixture.of(job.config.objective).reads(Reads.SCORES)
    held_out = None if reads_scores or not job.folder.held_out.exists() else str(job.folder.held_out)
    columns: dict[str, str | None] = {"score_chosen": "scores_chosen", "score_rejected": "scores_rejected"}
    return replace(
        dataclass_from(TrainConfig, job.config),
        data=replace(job.data(job.folder.weighted), columns=columns, eval_path=held_out),
        model=job.model,
        output_dir=str(job.folder.training),
        push_to_hub=None,  # `iwpo_fast.pipeline.run` sends the model of the run, and none of its arms
    )
