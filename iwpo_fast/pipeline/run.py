"""Running the stages in order, and only those that something has changed for."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from iwpo_fast.config import RunConfig
from iwpo_fast.files import remove_leftovers
from iwpo_fast.folder_lock import LOCK, hold_folder
from iwpo_fast.importance import check_weight_settings
from iwpo_fast.models.sharding import Sharding
from iwpo_fast.pipeline.context import Context
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.manifest import Manifest, key_of
from iwpo_fast.pipeline.soft_labels import check_soft_labels
from iwpo_fast.pipeline.stages import STAGES, Stage
from iwpo_fast.rewards import check_reward_settings
from iwpo_fast.training.validation import check_config, check_lora, check_optim
from iwpo_fast.world import World

NAMES = tuple(stage.name for stage in STAGES)


def run(config: RunConfig, *, start: str | None = None, only: str | None = None, force: bool = False) -> None:
    """Run the pipeline, or go on with it.

    Args:
        start: do this stage and all later ones again, whatever is there.
        only: do this stage alone, from what the stages before it left.
        force: do everything again.

    Raises:
        ValueError: one sentence on what is wrong with configuration, data or folder, and what to do.
    """
    _check(config, start, only, force)
    folder = PipelineFolder(Path(config.output_dir))
    world = World.start(config.device)
    sharding = Sharding.of(world, config.shard_over)
    _check_folder(folder)
    world.barrier()
    if world.is_main and not config.dry_run:
        _open(folder)
    world.barrier()
    manifest = Manifest(folder.manifest)
    context = Context(config, folder, world, sharding)
    first = NAMES.index(start) if start else 0 if force else len(STAGES)
    checked = False
    for number, stage in enumerate(STAGES):
        if only is not None and stage.name != only:
            continue
        _require(stage, manifest, folder)
        if only is not None:
            _refuse_stale(stage, STAGES[:number], manifest, config)
        settings, key = _told(stage, manifest, config)
        title = f"[{number + 1}/{len(STAGES)}] {stage.name}: {stage.what}"
        again = number >= first or only is not None
        if not again and manifest.is_current(stage.name, key):
            _say(world, f"{title} (done before)")
            continue
        if not checked and world.is_main:
            for later in STAGES[number:] if only is None else (stage,):
                if later.check is not None:
                    later.check(context.alone)
        checked = True
        if config.dry_run:
            _say(world, f"{title} (to do, and what follows from it)")
            return
        _say(world, f"\n{title}")
        if stage.folder is not None and world.is_main and (again or not manifest.was_started(stage.name, key)):
            shutil.rmtree(stage.folder(folder), ignore_errors=True)
        _do(stage, context, manifest, key, settings)
    _say(world, f"\neverything is in {folder.path}")


def _do(stage: Stage, context: Context, manifest: Manifest, key: str, settings: dict[str, object]) -> None:
    world, begin = context.world, time.monotonic()
    if world.is_main:
        manifest.start(stage.name, key, settings)
        for stale in stage.outputs(context.folder):
            stale.unlink(missing_ok=True)
    world.barrier()
    result = {}
    if stage.everywhere:
        result = stage.run(context)
    else:
        if stage.together is not None:
            stage.together(context)
        if world.is_main:
            result = stage.run(context.alone)
    world.barrier()
    if world.is_main:
        manifest.finish(stage.name, stage.outputs(context.folder), result)
    world.barrier()
    manifest.reload()
    _say(world, f"{stage.name} took {time.monotonic() - begin:.1f} s")


def _check(config: RunConfig, start: str | None, only: str | None, force: bool) -> None:
    for option, name in (("--from", start), ("--only", only)):
        if name is not None and name not in NAMES:
            raise ValueError(f"{option} {name} is no stage: choose one of {', '.join(NAMES)}.")
    if sum((start is not None, only is not None, force)) > 1:
        raise ValueError("--from, --only and --force exclude one another: give one of them.")
    check_config(config)
    check_reward_settings(config.rewards)
    if config.rewards.tuning is not None:
        check_optim(config.rewards.tuning.optim, "rewards.tuning.optim")
        check_lora(config.rewards.tuning.lora, "rewards.tuning.lora")
    check_weight_settings(config.weights)
    check_soft_labels(config)
    clusters = config.clusters
    if min(clusters.count, clusters.min_pairs) < 1 or clusters.fit_prompts < clusters.count:
        raise ValueError(
            f"clusters is {clusters}: count and min_pairs must be positive, and fit_prompts at least count."
        )


def _check_folder(folder: PipelineFolder) -> None:
    """Raise ValueError if there is a folder that is no pipeline's."""
    if folder.path.is_dir() and any(folder.path.iterdir()) and not folder.manifest.exists():
        foreign = [path for path in folder.path.iterdir() if path.name != LOCK and not path.name.endswith(".tmp")]
        if foreign:
            raise ValueError(
                f"output_dir {folder.path} exists and is not a pipeline of iwpo_fast: choose another output_dir."
            )


def _open(folder: PipelineFolder) -> None:
    """Make the folder, take it for this process, and remove what a killed one was writing in it."""
    folder.path.mkdir(parents=True, exist_ok=True)
    hold_folder(folder.path)
    for place in (folder.path, *(path for path in folder.path.iterdir() if path.is_dir())):
        remove_leftovers(place)


def _require(stage: Stage, manifest: Manifest, folder: PipelineFolder) -> None:
    missing = [name for name in stage.needs if name not in manifest]
    if missing:
        raise ValueError(
            f"The stage {stage.name} needs {' and '.join(missing)}, which {folder.path} does not have: run without "
            "--only first."
        )


def _refuse_stale(stage: Stage, before: Sequence[Stage], manifest: Manifest, config: RunConfig) -> None:
    """Raise ValueError if a stage before this one would be done again."""
    for earlier in before:
        if not manifest.is_current(earlier.name, _told(earlier, manifest, config)[1]):
            raise ValueError(
                f"--only {stage.name} reads what the stage {earlier.name} left, but settings or files have changed "
                f"since: run without --only, or --only {earlier.name} first."
            )


def _told(stage: Stage, manifest: Manifest, config: RunConfig) -> tuple[dict[str, object], str]:
    """The settings of a stage, and the key of its work with what the stages before it left."""
    settings = stage.settings(config)
    return settings, key_of(stage.name, settings, {name: manifest[name].outputs for name in stage.needs})


def _say(world: World, line: str) -> None:
    if world.is_main:
        print(line, flush=True)
