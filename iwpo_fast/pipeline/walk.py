"""Goes through the stages of one pipeline, except those whose work is already there."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from iwpo_fast.agreement import check_seen, check_shared, check_told
from iwpo_fast.config import RunConfig
from iwpo_fast.models.sharding import shard_mesh
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.given import check_given
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Manifest, Result, key_of
from iwpo_fast.pipeline.origin import without_origins
from iwpo_fast.pipeline.stages import STAGES, Checks, Resumes, Stage, WorksOnAllRanks, stages_of
from iwpo_fast.world import World


def join(config: RunConfig) -> PipelineJob:
    """Join the other processes, if any, and open the folder, except in a dry run."""
    folder = PipelineFolder(Path(config.output_dir))
    world = World.start(config.device)
    check_told(world, config)
    if not config.dry_run:
        check_shared(world, {"output_dir": folder.path})
    check_seen(world, config.model, {"the manifest": folder.manifest if folder.manifest.exists() else None})
    mesh, world = shard_mesh(world, config.shard_over), world.in_contexts_of(config.context_parallel)
    folder.check()
    world.barrier()
    if world.is_main and not config.dry_run:
        folder.take()
    world.barrier()
    return PipelineJob(config, folder, world, mesh)


def go_through(names: tuple[str, ...], again: tuple[str, ...], job: PipelineJob, manifest: Manifest) -> None:
    """Do the stages, except those whose work is there and which are not to be done `again`; a dry run says which."""
    config, stages, checked = job.config, tuple(stages_of(job.config)), False
    for name in names:
        settings, key = settings_and_key(name, config, manifest)
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


def settings_and_key(name: str, config: RunConfig, manifest: Manifest) -> tuple[dict[str, Any], str]:
    """The settings of a stage; the key of its work, from these and from the files of the stages that it needs."""
    stage = STAGES[name]
    settings = stage.settings(config)
    needs = [needed for needed in stage.NEEDS if needed in stages_of(config)]
    return settings, key_of(name, settings, {needed: without_origins(manifest.outputs(needed)) for needed in needs})


def _start(
    name: str, settings: dict[str, Any], key: str, job: PipelineJob, manifest: Manifest, *, resume: bool
) -> None:
    """Record that a stage is at work, and remove what it left before, except what it resumes from."""
    stage = STAGES[name]
    if not job.world.is_main:
        return
    if isinstance(stage, Resumes) and not resume:
        shutil.rmtree(stage.resumes(job.folder), ignore_errors=True)
    job.folder.page.unlink(missing_ok=True)  # it says what is no longer so
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


def _check_ahead(names: tuple[str, ...], job: PipelineJob) -> None:
    """Raise ValueError for what would stop one of these stages only after work had been done."""
    if not job.world.is_main:
        return
    alone = job.alone()
    for name in names:
        stage = STAGES[name]
        if isinstance(stage, Checks):
            stage.check(alone)
    if "reference" in names:  # the first that reads tokens
        check_given(alone)
    if "prepare" not in names:
        alone.forget_given()


def _title(name: str, stages: tuple[str, ...]) -> str:
    return f"[{stages.index(name) + 1}/{len(stages)}] {name}: {STAGES[name].WHAT}"
