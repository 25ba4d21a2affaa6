"""Runs the stages in order, except those whose work is already there."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from iwpo_fast.config import FORMS, RunConfig, WeightConfig
from iwpo_fast.config_checks import check_config
from iwpo_fast.models.sharding import shard_mesh
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Manifest, Result, key_of
from iwpo_fast.pipeline.stages import STAGES, Checks, Resumes, Stage, WorksOnAllRanks, stages_of
from iwpo_fast.planning import estimate_lines
from iwpo_fast.training.reproducible import threads_of_run
from iwpo_fast.world import World


def run(config: RunConfig, *, start: str | None = None, only: str | None = None, force: bool = False) -> None:
    """Run the pipeline, or continue it.

    Args:
        start: do this stage and all later ones again, whatever is there.
        only: do this stage alone, from what the stages before it left.
        force: do everything again.

    Raises:
        ValueError: one sentence on what is wrong with configuration, data or folder, and what to do.
    """
    check_config(config)
    stages = tuple(stages_of(config))
    names, again = _choose(stages, start, only, force)
    if config.plan.on is not None:
        World.start("cpu").say(*estimate_lines(config, names))
        return
    job = _join(config)
    manifest = Manifest(job.folder.manifest)
    if only is not None:
        _check_before(only, config, job.folder, manifest)
    with threads_of_run(manifest.threads) as other_threads:
        job.world.say(*filter(None, [other_threads, _weights_line(config.weights)]))
        _go_through(names, again, job, manifest)


def _go_through(names: tuple[str, ...], again: tuple[str, ...], job: PipelineJob, manifest: Manifest) -> None:
    """Do the stages, except those whose work is there and which are not to be done `again`."""
    config, stages, checked = job.config, tuple(stages_of(job.config)), False
    for name in names:
        settings, key = _settings_and_key(name, config, manifest)
        if name not in again and manifest.is_current(name, key):
            job.world.say(f"{_title(name, stages)} (done before)")
            continue
        if not checked:
            _check_ahead(names[names.index(name) :], job)
            checked = True
        if config.dry_run:
            job.world.say(f"{_title(name, stages)} (to do, and what follows from it)")
            return
        job.world.say(f"\n{_title(name, stages)}")
        resume = name not in again and manifest.was_started(name, key)
        _start(name, settings, key, job, manifest, resume=resume)
        _do(name, job, manifest)
    job.world.say(f"\neverything is in {job.folder.path}")


def _choose(
    stages: tuple[str, ...], start: str | None, only: str | None, force: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stages to go through, and those of them to do even if their files are there."""
    for option, name in (("--from", start), ("--only", only)):
        if name == "sample" and name not in stages:
            raise ValueError(f"{option} sample has nothing to do: set candidates.per_prompt to more than 0.")
        if name is not None and name not in stages:
            raise ValueError(f"{option} {name} is no stage: choose one of {', '.join(stages)}.")
    if sum((start is not None, only is not None, force)) > 1:
        raise ValueError("--from, --only and --force exclude one another: give one of them.")
    if only is not None:
        return (only,), (only,)
    if start is not None:
        return stages, stages[stages.index(start) :]
    return stages, stages if force else ()


def _join(config: RunConfig) -> PipelineJob:
    """Join the other processes, if any, and open the folder, except in a dry run."""
    folder = PipelineFolder(Path(config.output_dir))
    world = World.start(config.device)
    mesh = shard_mesh(world, config.shard_over)
    folder.check()
    world.barrier()
    if world.is_main and not config.dry_run:
        folder.take()
    world.barrier()
    return PipelineJob(config, folder, world, mesh)


def _settings_and_key(name: str, config: RunConfig, manifest: Manifest) -> tuple[dict[str, Any], str]:
    """The settings of a stage; the key of its work, from these and from the files of the stages that it needs."""
    stage = STAGES[name]
    settings = stage.settings(config)
    needs = [needed for needed in stage.NEEDS if needed in stages_of(config)]
    return settings, key_of(name, settings, {needed: manifest.outputs(needed) for needed in needs})


def _start(
    name: str, settings: dict[str, Any], key: str, job: PipelineJob, manifest: Manifest, *, resume: bool
) -> None:
    """Record that a stage is at work, and remove what it left before, except what it resumes from."""
    stage = STAGES[name]
    if not job.world.is_main:
        return
    if isinstance(stage, Resumes) and not resume:
        shutil.rmtree(stage.resumes(job.folder), ignore_errors=True)
    manifest.start(name, key, settings)
    for stale in stage.outputs(job.folder):
        stale.unlink(missing_ok=True)


def _do(name: str, job: PipelineJob, manifest: Manifest) -> None:
    """Do a stage and record its files; the ranks wait for one another before and after."""
    stage, begin = STAGES[name], time.monotonic()
    job.world.barrier()
    result = _result(stage, job)
    job.world.barrier()
    if job.world.is_main:
        manifest.finish(name, stage.outputs(job.folder), result)
    job.world.barrier()
    manifest.reload()
    job.world.say(f"{name} took {time.monotonic() - begin:.1f} s")


def _result(stage: Stage, job: PipelineJob) -> Result:
    """Numbers of the stage, on rank 0."""
    shared = (stage.on_all_ranks(job),) if isinstance(stage, WorksOnAllRanks) else ()
    return stage.run(job.alone(), *shared) if job.world.is_main else {}


def _check_before(only: str, config: RunConfig, folder: PipelineFolder, manifest: Manifest) -> None:
    """Raise ValueError if a stage that `only` needs was not done, or a stage before it would be done again."""
    stages = tuple(stages_of(config))
    missing = [name for name in STAGES[only].NEEDS if name in stages and name not in manifest]
    if missing:
        raise ValueError(
            f"The stage {only} needs {' and '.join(missing)}, which {folder.path} does not have: run without "
            "--only first."
        )
    for earlier in stages[: stages.index(only)]:
        if not manifest.is_current(earlier, _settings_and_key(earlier, config, manifest)[1]):
            raise ValueError(
                f"--only {only} reads what the stage {earlier} left, but settings or files have changed "
                f"since: run without --only, or --only {earlier} first."
            )


def _check_ahead(names: tuple[str, ...], job: PipelineJob) -> None:
    """Raise ValueError for what would stop one of these stages only after work had been done."""
    for name in names if job.world.is_main else ():
        stage = STAGES[name]
        if isinstance(stage, Checks):
            stage.check(job.alone())


def _weights_line(weights: WeightConfig) -> str:
    """What the form of the weights sets."""
    settings = weights.resolved()
    names = list(FORMS[weights.form])
    if settings.soft_labels == "posterior" or settings.preferred_pairs:
        names.append("relative_variance")
    values = ", ".join(f"{name} {getattr(settings, name)}" for name in names)
    return f"weights, form {weights.form}: {values}"


def _title(name: str, stages: tuple[str, ...]) -> str:
    return f"[{stages.index(name) + 1}/{len(stages)}] {name}: {STAGES[name].WHAT}"
