"""The processes of a job agree before they begin, and when one fails all end soon with a sentence that points at it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from forked import Done
from jobs import killed, killed_once_connected, run_job
from test_signals import results
from toy_pairs import write_pairs

from iwpo_fast.config import CheckpointConfig, LogConfig, ModelConfig, TrainConfig
from iwpo_fast.lifeline import DIED
from iwpo_fast.training import train
from iwpo_fast.training.checkpoint import checkpoints

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
pytestmark = pytest.mark.slow

SOON = 30.0
"""Seconds in which all end, by docs/reliability.md."""


def sentences(ended: list[Done]) -> list[str]:
    return [line for done in ended for line in done.said.splitlines() if line.startswith("iwpo: ")]


def refuse() -> None:
    raise ValueError("the disk of rank\nis full: make room.")


def fail_by_a_bug() -> None:
    raise TypeError("a bug")


def be_asked() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("where", "call"), [("tokenised", 1), ("train_step", 3), ("save_checkpoint", 1), ("summarise", 1)]
)
def test_a_process_that_is_killed_ends_the_other(config, tmp_path, rank, where, call) -> None:
    if (rank, where) == (1, "summarise"):
        pytest.skip("the first process alone does it")
    sabotage = [(), ()]
    sabotage[rank] = (where, call, killed)
    ended, seconds = run_job(config(), tmp_path, sabotage=sabotage)
    other = 1 - rank
    assert [ended[rank].exitcode, ended[other].exitcode] == [-signal.SIGKILL, 2], ended[other].said
    said = f"iwpo: error on rank {other}: rank {rank} failed first: it ended without a word; it was killed, or its "
    assert sentences(ended) == [f"{said}machine is gone."]
    assert "Traceback" not in ended[other].said
    assert seconds < SOON


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_before_they_meet_ends_the_other(config, tmp_path, rank) -> None:
    sabotage = [(), ()]
    sabotage[rank] = ("meet", 1, killed_once_connected)
    ended, seconds = run_job(config(), tmp_path, sabotage=sabotage)
    assert [ended[rank].exitcode, ended[1 - rank].exitcode] == [-signal.SIGKILL, 2], ended[1 - rank].said
    assert sentences(ended) == [f"iwpo: error on rank {1 - rank}: rank {rank} failed first: {DIED}"]
    assert not list(tmp_path.glob("run"))
    assert seconds < SOON


@pytest.mark.parametrize(("variable", "value"), [("MASTER_PORT", "x"), ("MASTER_PORT", "99999999")])
def test_a_meeting_point_that_cannot_be_is_a_sentence(config, tmp_path, variable, value) -> None:
    ended, _ = run_job(config(), tmp_path, variables={variable: value})
    assert [done.exitcode for done in ended] == [2, 2]
    assert all(line.endswith(".") and variable in line for line in sentences(ended)), sentences(ended)
    assert "Traceback" not in ended[0].said + ended[1].said


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("where", "call"), [("tokenised", 1), ("train_step", 3)])
def test_a_process_that_refuses_ends_the_other_with_its_sentence(config, tmp_path, rank, where, call) -> None:
    sabotage = [(), ()]
    sabotage[rank] = (where, call, refuse)
    ended, seconds = run_job(config(), tmp_path, sabotage=sabotage)
    assert [done.exitcode for done in ended] == [2, 2]
    why = "the disk of rank is full: make room."
    assert sorted(sentences(ended)) == sorted(
        [f"iwpo: error on rank {rank}: {why}", f"iwpo: error on rank {1 - rank}: rank {rank} failed first: {why}"]
    )
    assert not any("Traceback" in done.said for done in ended)
    assert seconds < SOON


@pytest.mark.parametrize("rank", [0, 1])
def test_a_bug_in_one_process_is_its_traceback_and_the_sentence_of_the_other(config, tmp_path, rank) -> None:
    sabotage = [(), ()]
    sabotage[rank] = ("train_step", 2, fail_by_a_bug)
    ended, seconds = run_job(config(), tmp_path, sabotage=sabotage)
    assert [ended[rank].exitcode, ended[1 - rank].exitcode] == [1, 2]
    assert sentences(ended) == [f"iwpo: error on rank {1 - rank}: rank {rank} failed first: TypeError: a bug"]
    assert "Traceback" in ended[rank].said and "Traceback" not in ended[1 - rank].said
    assert seconds < SOON


@pytest.mark.parametrize("rank", [0, 1])
def test_bad_arguments_of_one_process_end_the_other_which_waits_for_it(config, tmp_path, rank) -> None:
    flags = [[], []]
    flags[rank] = ["--optim.lr", "x"]
    ended, seconds = run_job(config(), tmp_path, flags=flags)
    assert [done.exitcode for done in ended] == [2, 2]
    why = "optim.lr is x: it must be a finite number."
    assert sorted(sentences(ended)) == sorted(
        [f"iwpo: error on rank {rank}: {why}", f"iwpo: error on rank {1 - rank}: rank {rank} failed first: {why}"]
    )
    assert seconds < SOON


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--optim.lr", "0.01"], "optim.lr is 0.001 on rank 0 and 0.01 on rank 1: start all"),
        (["--log.eval_every", "2"], "log.eval_every is null on rank 0 and 2 on rank 1: start all"),
        (
            ["--seed", "1", "--model.lora.rank", "4"],
            "model.lora is null on rank 0 and a group of settings on rank 1; seed is",
        ),
        (["--shard_over", "all"], 'shard_over is 1 on rank 0 and "all" on rank 1: start all'),
        (["--output_dir", "other"], 'on rank 0 and "other" on rank 1: start all'),
    ],
)
def test_other_settings_are_named_and_nothing_is_made(config, tmp_path, flags, expected) -> None:
    ended, _ = run_job(config(), tmp_path, flags=[[], flags])
    assert [done.exitcode for done in ended] == [2, 2]
    (said,) = sentences(ended)
    assert said.startswith("iwpo: error on rank 0: the processes of this job do not agree: ") and expected in said
    assert not {path.name for path in tmp_path.iterdir()} & {"cache", "run", "other"}


def test_settings_of_a_machine_may_differ(config, tmp_path) -> None:
    ended, _ = run_job(config(), tmp_path, flags=[[], ["--data.workers", "1"]])
    assert [done.exitcode for done in ended] == [0, 0], ended[0].said


def relative(settings: TrainConfig, tmp_path: Path) -> TrainConfig:
    """With paths that each process reads from its own working folder, which has the data."""
    for number, place in enumerate(("a", "b")):
        (tmp_path / place).mkdir()
        write_pairs(tmp_path / place / "pairs.jsonl", rows=40)
        (tmp_path / place / "number").write_text(str(number))
    settings.data.path = "pairs.jsonl"
    return settings


@pytest.mark.parametrize("setting", ["output_dir", "data.cache_dir"])
def test_folders_that_are_not_shared_are_refused_before_anything_else(config, tmp_path, setting) -> None:
    settings = relative(config(), tmp_path)
    flags = ["--output_dir", "out"] if setting == "output_dir" else ["--data.cache_dir", "kept/cache"]
    ended, _ = run_job(settings, tmp_path, flags=[flags, flags], places=["a", "b"])
    assert [done.exitcode for done in ended] == [2, 2]
    (said,) = sentences(ended)
    assert said.startswith(
        f"iwpo: error on rank 0: rank 1 does not see what rank 0 writes in {setting} {flags[1]}: put"
    )
    assert {path.name for place in "ab" for path in (tmp_path / place).iterdir()} == {"pairs.jsonl", "number"}


def test_other_data_are_noticed(config, tmp_path) -> None:
    settings = relative(config(), tmp_path)
    lines = (tmp_path / "b/pairs.jsonl").read_text().splitlines()
    lines[20] = json.dumps(json.loads(lines[20]) | {"chosen": "another"})
    (tmp_path / "b/pairs.jsonl").write_text("\n".join(lines) + "\n")
    ended, _ = run_job(settings, tmp_path, places=["a", "b"])
    assert [done.exitcode for done in ended] == [2, 2]
    (said,) = sentences(ended)
    assert "do not agree: the data is another on rank 1 than on rank 0: start all" in said


def test_another_model_is_noticed(config, tmp_path) -> None:
    made = config(output_dir=str(tmp_path / "made"))
    train(made)
    settings = relative(config(model=ModelConfig(path="model")), tmp_path)
    for place in "ab":
        shutil.copytree(tmp_path / "made/model", tmp_path / place / "model")
    weights = bytearray((tmp_path / "b/model/model.safetensors").read_bytes())
    weights[-2] ^= 1
    (tmp_path / "b/model/model.safetensors").write_bytes(weights)
    ended, _ = run_job(settings, tmp_path, places=["a", "b"])
    assert [done.exitcode for done in ended] == [2, 2]
    assert "do not agree: the model is another on rank 1 than on rank 0: start all" in sentences(ended)[0]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all_at_one_step_and_they_go_on(config, tmp_path, rank) -> None:
    parts = {"log": LogConfig(every=1), "checkpoint": CheckpointConfig(every=100)}
    whole = config(**parts, output_dir=str(tmp_path / "whole"))
    asked = config(**parts, output_dir=str(tmp_path / "asked"))
    sabotage = [(), ()]
    sabotage[rank] = ("train_step", 3, be_asked)
    ended, seconds = run_job(asked, tmp_path, sabotage=sabotage)
    assert [done.exitcode for done in ended] == [143, 143], ended[0].said
    said = "iwpo: stopped by SIGTERM after step 3, which is saved; the same command goes on from there."
    assert sentences(ended) == [said]
    assert seconds < SOON
    (saved,) = checkpoints(Path(asked.output_dir) / "checkpoints")
    assert saved.name == "step-00000003"
    for settings in (whole, asked):
        ended, _ = run_job(settings, tmp_path)
        assert [done.exitcode for done in ended] == [0, 0], ended[0].said
    assert results(asked) == results(whole)


def test_a_signal_to_one_process_that_takes_no_steps_ends_all(config, tmp_path) -> None:
    ended, seconds = run_job(config(), tmp_path, sabotage=[(), ("tokenised", 1, be_asked)])
    assert [done.exitcode for done in ended] == [143, 143]
    (said,) = sentences(ended)
    assert said.startswith("iwpo: error on rank 0: rank 1 failed first: stopped by SIGTERM; the same command")
    assert seconds < SOON
