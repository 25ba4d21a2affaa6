"""Train on the weighted pairs, as `iwpo train` would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from iwpo_fast.config import CheckpointConfig, RunConfig, TrainConfig, dataclass_from
from iwpo_fast.data.places import local_files
from iwpo_fast.models import reward_head
from iwpo_fast.models.reference_cache import keep_logps
from iwpo_fast.objectives import Mixture
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.pipeline.card import card_paragraph
from iwpo_fast.pipeline.folder import PipelineFolder, files_in
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Result, content_of, sections
from iwpo_fast.pipeline.origin import read_written
from iwpo_fast.pipeline.stages import reference
from iwpo_fast.training import train
from iwpo_fast.training.about import About
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
    if Mixture.of(config.objective).reads(Reads.OWN_REWARD):
        settings["own reward"] = reward_head.READS
    if config.sampled_kl is not None:
        settings |= sections(config, "sampled_kl")
        settings["prompts"] = [content_of(str(file)) for file in local_files(config.sampled_kl.prompts or [])]
    return settings


def outputs(folder: PipelineFolder) -> list[Path]:
    return [folder.training / "summary.json", *files_in(folder.training / "model")]


def resumes(folder: PipelineFolder) -> Path:
    return folder.training


def on_all_ranks(job: PipelineJob) -> TrainSummary:
    _keep_logps(job)
    job.free()
    summary = train(_train_config(job), read=read_written, about=About(card_paragraph(job), _held_out(job)))
    assert summary is not None
    return summary


def run(job: PipelineJob, summary: TrainSummary) -> Result:
    return summary.as_json() | {"output_dir": job.folder.training.name}


def _reading_scores(job: PipelineJob) -> str | None:
    """The objective that reads scores of training pairs, if one does."""
    return Mixture.of(job.config.objective).reading(Reads.SCORES)


def _held_out(job: PipelineJob) -> str:
    """What the plan and the card say of held-out pairs that the training itself is not given."""
    reader, held_out = _reading_scores(job), job.load_held_out()
    if reader is None or held_out is None:
        return About().held_out
    return (
        f"{len(held_out):,} held out, evaluated after the training, because {reader} reads rewards, which are made for "
        "training pairs alone"
    )


def _keep_logps(job: PipelineJob) -> None:
    """Spare training a pass over drawn pairs and samples: the stage `reference` has run all of their responses."""
    has_drawn = job.folder.preferred.exists() or job.config.weights.forward_kl == "samples"
    if not has_drawn or not Mixture.of(job.config.objective).uses_reference:
        return
    keep_logps(job.cache_dir(), job.load_policy(), job.read_weighted(), job.load_pairs(), job.world)


def _train_config(job: PipelineJob) -> TrainConfig:
    """The pipeline's training settings, applied to its files."""
    # Rewards are made for training pairs only, so an objective that reads them has no loss on held-out pairs.
    held_out = None if _reading_scores(job) or not job.folder.held_out.exists() else str(job.folder.held_out)
    columns: dict[str, str | None] = {"score_chosen": "scores_chosen", "score_rejected": "scores_rejected"}
    return replace(
        dataclass_from(TrainConfig, job.config),
        data=replace(job.data(job.folder.weighted), columns=columns, eval_path=held_out),
        model=job.model,
        output_dir=str(job.folder.training),
        push_to_hub=None,  # `iwpo_fast.pipeline.run` sends the model of the run, and none of its arms
    )
