"""The arms of a run: pipelines that take over its files up to the rewards, and weigh and train by a part of the method.

An arm is a whole pipeline in `arms/NAME`, so it is kept, resumed and read like any other.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from iwpo_fast.config import Arm
from iwpo_fast.evaluation.arms import FIRST, OWN, Row, compared, markdown, verdict
from iwpo_fast.files import load_record, load_tensors, save_record, written_aside
from iwpo_fast.importance.arms import arm_weights
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Manifest
from iwpo_fast.pipeline.rows_file import effects_in
from iwpo_fast.pipeline.stages import stages_of
from iwpo_fast.pipeline.walk import go_through
from iwpo_fast.terminal import escaped

OF_ARMS = ("weigh", "train", "evaluate")
"""The stages that an arm does itself."""


def run_arms(job: PipelineJob, manifest: Manifest, again: tuple[str, ...]) -> None:
    """Train the arms that a finished run asks for, and compare them; a dry run says which they are.

    An arm whose pairs, weights and labels are those of another is not trained again.

    Args:
        again: stages to do whatever is there.
    """
    arms, world = job.config.arms, job.world
    if not arms or job.config.dry_run or not job.folder.margins.exists():
        world.say(*([_untrained(job)] if arms else []))
        return
    weighted, same = {_weighted(job, manifest): OWN}, dict[str, str]()
    for name in arms:
        world.say(f"\narm {name}")
        arm, record = _take_over(job, name, manifest)
        go_through(("weigh",), again, arm, record)
        like = weighted.setdefault(_weighted(arm, record), name)
        if like == name:
            go_through(("train", "evaluate"), again, arm, record)
        else:
            same[name] = like
            world.say(f"its pairs, weights and labels are those of {like}, so it is not trained again")
    if world.is_main:
        _report(job.folder, arms, same)
    world.barrier()


def folder_of(folder: PipelineFolder, name: str) -> PipelineFolder:
    """The pipeline of an arm, or of the run itself, which is not trained if it is the same as another."""
    return folder if name == OWN else PipelineFolder(folder.arms / name)


def model_of(folder: PipelineFolder, name: str) -> Path:
    """The model that an arm, or the run itself, has trained, or the arm that it is the same as."""
    row = load_record(folder.arms_table)[name]
    return folder_of(folder, row.get("same_as", name)).training / "model"


def _untrained(job: PipelineJob) -> str:
    if job.config.dry_run:
        return f"then the arms {', '.join(job.config.arms)}, in {job.folder.arms}"
    return "no pair is held out, so there is nothing to compare arms on, and none is trained"


def _take_over(job: PipelineJob, name: Arm, manifest: Manifest) -> tuple[PipelineJob, Manifest]:
    """The pipeline of an arm with the run's files up to the rewards, and its manifest. All ranks call it."""
    job.free()  # because the evaluation before has put trained weights into it
    folder = folder_of(job.folder, name)
    folder.check()
    job.world.barrier()
    record = Manifest(folder.manifest)
    if job.world.is_main:
        folder.take()
        record.take_over(manifest, [stage for stage in stages_of(job.config) if stage not in OF_ARMS])
    job.world.barrier()
    record.reload()
    config = replace(
        job.config,
        data=replace(job.config.data, cache_dir=str(job.cache_dir())),
        weights=arm_weights(name, job.config.weights),
        output_dir=str(folder.path),
        arms=[],
    )
    return replace(job, config=config, folder=folder), record


def _weighted(job: PipelineJob, manifest: Manifest) -> str:
    """SHA-256 of the weighted pairs, by which equal trainings are recognised."""
    outputs = manifest.outputs("weigh")
    assert outputs is not None
    return outputs[str(job.folder.weighted.relative_to(job.folder.path))]


def _report(folder: PipelineFolder, arms: list[Arm], same: dict[str, str]) -> None:
    names = [FIRST, *(name for name in arms if name != FIRST), OWN]
    margins = {name: load_tensors(folder_of(folder, same.get(name, name)).margins)["margin"] for name in names}
    rows: dict[str, Row] = compared(margins, load_tensors(folder.margins).get("prompt"))
    for name, row in rows.items():
        row["effects"] = effects_in(folder_of(folder, name).weighted)
        if name in same:
            row["same_as"] = same[name]
    trained = {name: same.get(name, name) for name in names}
    said = [verdict(name, rows[name], trained[name] == trained[FIRST]) for name in names if name != FIRST]
    save_record(folder.arms_table, rows)
    with written_aside(folder.arms_report) as aside:
        aside.write_text(markdown(rows, said), encoding="utf-8")
    print(f"\nthe parts of the method on held-out pairs ({escaped(str(folder.arms_report))}):")
    for line in said:
        print(f"  {line}")
