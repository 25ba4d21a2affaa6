"""A kill in any stage, then the same command again, ends in the same bytes as a pipeline that was left alone.

And two calls at once in one folder.
"""

from __future__ import annotations

import shutil
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from forked import HANG
from pipeline_cases import DATA, results, run_and_be_killed, stages_done, toy_config

from iwpo_fast.output_folder import hold_folder

# Each call continues where the one before was killed, so it does that stage again before it comes to its own.
INSIDE_THE_STAGES = {
    "prepare, with the training rows written aside": ("iwpo_fast.files:_settle", 3),
    "prepare, between training and held-out rows": ("iwpo_fast.pipeline.stages.prepare:write_rows", 2),
    "reference, after some batches": ("iwpo_fast.rewards.store:save_part", 3),
    "cluster, between centroids and assignment": ("iwpo_fast.pipeline.stages.cluster:save_tensors", 1),
    "reward, between rewards and report": ("iwpo_fast.pipeline.stages.reward:save_json", 1),
    "reward, with its reward model written aside": ("iwpo_fast.rewards.reward_model_files:save_json", 1),
    "weigh, between report and rows": ("iwpo_fast.pipeline.stages.weigh:write_rows", 1),
    "train, before its first checkpoint": ("iwpo_fast.training.loop:train_step", 2),
    "train, between two checkpoints": ("iwpo_fast.training.loop:train_step", 4),
    "train, in a checkpoint": ("iwpo_fast.training.stored_tensors:save_tensors", 2),
    "train, before its model": ("iwpo_fast.training.loop:summarise", 1),
    "evaluate, between numbers and report": ("iwpo_fast.pipeline.stages.evaluate:written_aside", 1),
}
BEFORE_THE_RECORD = {"prepare": ("iwpo_fast.pipeline.manifest:Manifest.finish", 1)} | {
    stage: ("iwpo_fast.pipeline.manifest:Manifest.finish", 2)
    for stage in ("reference", "cluster", "reward", "weigh", "train", "evaluate")
}


@pytest.mark.slow
@pytest.mark.parametrize("kills", [INSIDE_THE_STAGES, BEFORE_THE_RECORD], ids=["inside", "before the record"])
def test_a_kill_in_every_stage_leaves_no_trace_in_the_results(kills, place, finished, processes) -> None:
    shutil.copy2(finished / DATA, place)
    for moment, (target, call) in kills.items():
        process = processes.Process(target=run_and_be_killed, args=(place, target, call))
        process.start()
        process.join(HANG)
        assert process.exitcode == -signal.SIGKILL, f"{moment}: {(place / 'said-0.txt').read_text()}"
    assert stages_done(toy_config()) != []
    assert results(place) == results(finished)


@pytest.mark.slow
def test_a_second_process_may_not_run_in_the_same_folder(place, processes) -> None:
    Path("run").mkdir()
    ours, theirs = processes.Pipe()
    holder = processes.Process(target=hold_until_told, args=(place / "run", theirs), daemon=True)
    holder.start()
    assert ours.recv() == "held"
    with pytest.raises(ValueError, match="another process is running in run"):
        stages_done(toy_config())
    ours.send("end")
    holder.join(HANG)


def hold_until_told(folder: Path, connection: Connection) -> None:
    hold_folder(folder)
    connection.send("held")
    connection.recv()
