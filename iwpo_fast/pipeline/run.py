"""The command `iwpo run`: which stages it goes through, and the arms beside them."""

from __future__ import annotations

from iwpo_fast.config import FORMS, RunConfig, WeightConfig
from iwpo_fast.config_checks import check_config
from iwpo_fast.data.clock import clock_at
from iwpo_fast.hub import push_if_asked
from iwpo_fast.models.pretrained import model_line, trust_line
from iwpo_fast.pipeline.arms import run_arms
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Manifest
from iwpo_fast.pipeline.rounds import run_rounds
from iwpo_fast.pipeline.stages import STAGES, stages_of
from iwpo_fast.pipeline.walk import go_through, join, settings_and_key
from iwpo_fast.planning import estimate_lines
from iwpo_fast.training.reproducible import threads_of_run
from iwpo_fast.world import World

ALL_ONE = (
    "  all weights are 1, because weights between pairs added nothing to soft labels: weights.form strong has them"
)
"""Of the form `cautious`; docs/iwpo.md has the numbers."""


def run(config: RunConfig, *, start: str | None = None, only: str | None = None, force: bool = False) -> None:
    """Run the pipeline, or continue it, and then its arms, except after one stage alone.

    Args:
        start: do this stage and all later ones again, whatever is there.
        only: do this stage alone, from what the stages before it left.
        force: do everything again.

    Raises:
        ValueError: one sentence on what is wrong with configuration, data or folder, and what to do.
    """
    check_config(config)
    _check_reference(config)
    _check_types(config)
    if config.rounds > 1 and config.plan.on is None:
        if start is not None or only is not None:
            raise ValueError("--from and --only name a stage of one round: leave them out, or take --force.")
        run_rounds(config, run, force=force)
        return
    stages = tuple(stages_of(config))
    names, again = _choose(stages, start, only, force, config.push_to_hub)
    if config.plan.on is not None:
        World.start("cpu").say(*weights_lines(config.weights), *estimate_lines(config, names))
        if config.rounds > 1:
            World.start("cpu").say(f"each of the {config.rounds} rounds takes so much")
        return
    job = join(config)
    manifest = Manifest(job.folder.manifest)
    if only is not None:
        _check_before(only, config, job.folder, manifest)
    with clock_at(manifest.clock), threads_of_run(manifest.threads) as other_threads:
        job.world.say(*filter(None, [model_line(config.model), other_threads, trust_line(config.model)]))
        job.world.say(*weights_lines(config.weights))
        go_through(names, again, job, manifest)
        if only is None:
            run_arms(job, manifest, again)
            if not config.dry_run:
                _write_page(job)
                job.world.say(f"\nwhat was done is on one page, {job.folder.page}")
        if not config.dry_run:
            job.world.say(f"\neverything is in {job.folder.path}")
            if only is None:
                push_if_asked(job.folder.training / "model", config.push_to_hub, job.world)


def _write_page(job: PipelineJob) -> None:
    """What the run has done, for people; a page that is there is of what is there, except that arms may be new."""
    if job.world.is_main:
        from iwpo_fast.report import RunFiles, is_whole, write_page  # which reads what is in this package

        if job.config.arms or not is_whole(job.folder.page):
            write_page(RunFiles(str(job.folder.path)), job.folder.page)
    job.world.barrier()


def _check_reference(config: RunConfig) -> None:
    if config.model.reference is not None:
        raise ValueError(
            f"model.reference is {config.model.reference}, but iwpo run draws, rewards and weighs by the model that it "
            "trains: leave it out, or give the weighted pairs of a run to iwpo train."
        )


def _check_types(config: RunConfig) -> None:
    if config.types is not None:
        raise ValueError(
            "types is set, but the stages of iwpo run learn from all annotators together: train with iwpo train, or "
            "leave types out."
        )


def _choose(
    stages: tuple[str, ...], start: str | None, only: str | None, force: bool, push_to_hub: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stages to go through, and those of them to do even if their files are there."""
    for option, name in (("--from", start), ("--only", only)):
        if name == "sample" and name not in stages:
            raise ValueError(f"{option} sample has nothing to do: set candidates.per_prompt to more than 0.")
        if name is not None and name not in stages:
            raise ValueError(f"{option} {name} is no stage: choose one of {', '.join(stages)}.")
    if only is not None and push_to_hub is not None:
        raise ValueError(
            f"push_to_hub is {push_to_hub}, and --only does one stage and sends nothing: leave push_to_hub out, or run "
            "without --only."
        )
    if sum((start is not None, only is not None, force)) > 1:
        raise ValueError("--from, --only and --force exclude one another: give one of them.")
    if only is not None:
        return (only,), (only,)
    if start is not None:
        return stages, stages[stages.index(start) :]
    return stages, stages if force else ()


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
        if not manifest.is_current(earlier, settings_and_key(earlier, config, manifest)[1]):
            raise ValueError(
                f"--only {only} reads what the stage {earlier} left, but settings or files have changed "
                f"since: run without --only, or --only {earlier} first."
            )


def weights_lines(weights: WeightConfig) -> list[str]:
    """What the form of the weights sets, or a setting in its place, as far as something reads it; why none weighs."""
    settings = weights.resolved()
    values = {name: getattr(settings, name) for name in FORMS[weights.form]} | {"method": settings.formula}
    if settings.formula != "irpss":
        del values["gamma"], values["ess_target"]
        if not settings.preferred_pairs or settings.tau == "ess":
            del values["tau"]
    if settings.soft_labels == "posterior" or settings.preferred_pairs:
        values["relative_variance"] = settings.relative_variance
    said = f"weights, form {weights.form}: " + ", ".join(f"{name} {value}" for name, value in values.items())
    by_form = weights.form == "cautious" and weights.method == "auto" and settings.formula == "none"
    return [said, *([ALL_ONE] if by_form else [])]
