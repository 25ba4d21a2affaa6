"""Several processes are one pipeline: the files of one process, also where they share the model, and its errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import HANG
from pipeline_cases import (
    DATA,
    job_of_two,
    read_jsonl,
    results,
    run_and_be_killed,
    run_aside,
    run_in_two_processes,
    toy_config,
    toy_rows,
    write_jsonl,
)
from safetensors.numpy import load_file

from iwpo_fast.config import DataConfig, LoraConfig, OptimConfig, RewardConfig, RunConfig, TuningConfig
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.pipeline import job
from iwpo_fast.rewards.reward_model import RewardModel

pytestmark = pytest.mark.slow


def test_two_processes_make_the_same_weights_as_one_and_go_on_with_each_others_work(place, finished, processes) -> None:
    shutil.copy2(finished / DATA, place)
    run_in_two_processes(place, processes, toy_config())
    assert weights_of(place) == pytest.approx(weights_of(finished), rel=1e-3)
    before = results(place)
    for lost in ("rewards/rewards.safetensors", "evaluation/report.md"):
        (place / "run" / lost).unlink()
    run_in_two_processes(place, processes, toy_config())
    assert results(place) == before


@pytest.fixture(scope="module")
def shared(tmp_path_factory, finished: Path, processes: ForkServerContext) -> Path:
    """What two processes that share the model have made, in two calls. To be read only.

    Of the first call rank 0 is killed when all batches of its features are on disk, and one of them is lost, so that
    in the second call one rank has a batch to do and the other none.
    """
    place = tmp_path_factory.mktemp("shared")
    shutil.copy2(finished / DATA, place)
    config = toy_config(shard_over="all")
    first, second = job_of_two()
    killed = ("iwpo_fast.rewards.store:join_parts", 1)
    ranks = [
        processes.Process(target=run_and_be_killed, args=(place, *killed, config, first)),
        processes.Process(target=run_aside, args=(place, config, second)),
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(HANG)
        process.kill()
    assert all(process.exitcode for process in ranks)
    parts = sorted((place / "run/cache").rglob("parts/*.safetensors"))
    assert len(parts) > 1
    parts[0].unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run_in_two_processes(place, processes, config, run_and_note_models)
    return place


def run_and_note_models(place: Path, config: RunConfig, environment: dict[str, str]) -> None:
    """Run the pipeline, and write whether it shared each model that stages other than training have loaded."""
    loaded: list[bool] = []

    def noted(*arguments: Any, **keywords: Any) -> Policy:
        policy = load_policy(*arguments, **keywords)
        loaded.append(policy.is_sharded)
        return policy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "load_policy", noted)
        run_aside(place, config, environment)
    Path(f"loaded-{environment['RANK']}.json").write_text(json.dumps(loaded))


def test_the_reference_pass_and_the_evaluation_share_the_model(shared) -> None:
    assert [json.loads((shared / f"loaded-{rank}.json").read_text()) for rank in range(2)] == 2 * [[True, True]]
    (checkpoint,) = sorted((shared / "run/train/checkpoints").iterdir())[-1:]
    assert len(list(checkpoint.glob("shard-*.safetensors"))) == 2


def test_processes_that_share_the_model_make_the_files_of_one(shared, finished) -> None:
    assert weights_of(shared) == pytest.approx(weights_of(finished), rel=1e-3)
    for name in ("prompt", "response"):
        for found, expected in zip(features_of(shared, name), features_of(finished, name), strict=True):
            np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=2e-3, atol=1e-4)
    ours, theirs = (load_file(place / "run/train/model/model.safetensors") for place in (shared, finished))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_allclose(ours[name], tensor, rtol=0, atol=2e-5, err_msg=name)
    found, expected = (
        json.loads((place / "run/evaluation/evaluation.json").read_text()) for place in (shared, finished)
    )
    assert found.keys() == expected.keys()
    for name, row in expected.items():
        assert found[name] == pytest.approx(row, rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("stage", ["reference", "cluster", "evaluate"])
def test_processes_that_share_the_model_do_one_stage_again_to_the_same_bytes(shared, place, processes, stage) -> None:
    shutil.copytree(shared, place, dirs_exist_ok=True)
    before = results(place)
    if stage != "evaluate":
        shutil.rmtree("run/cache")
    run_in_two_processes(place, processes, toy_config(shard_over="all"), only=stage)
    assert results(place) == before


def test_processes_that_compute_slices_of_each_batch_make_the_files_of_one(place, finished, processes) -> None:
    shutil.copy2(finished / DATA, place)
    run_in_two_processes(place, processes, toy_config(context_parallel=2))
    assert weights_of(place) == pytest.approx(weights_of(finished), rel=1e-3)
    for name in ("prompt", "response"):
        for found, expected in zip(features_of(place, name), features_of(finished, name), strict=True):
            np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=2e-3, atol=1e-4)
    ours, theirs = (json.loads((at / "run/evaluation/evaluation.json").read_text()) for at in (place, finished))
    for name, row in theirs.items():
        assert ours[name] == pytest.approx(row, rel=1e-3, abs=1e-5), name


def test_a_process_without_a_pair_to_evaluate_takes_part(place, processes) -> None:
    rows = toy_rows(9)
    write_jsonl(DATA, rows[:-1])
    write_jsonl("held_out.jsonl", rows[-1:])
    data = DataConfig(path=DATA, eval_path="held_out.jsonl")
    config = toy_config(shard_over="all", data=data, optim=OptimConfig(lr=1e-2, max_steps=1))
    run_in_two_processes(place, processes, config)
    after = json.loads(Path("run/train/summary.json").read_text())["after"]
    found = json.loads(Path("run/evaluation/evaluation.json").read_text())["all"]
    assert found["pairs"] == 1
    assert found["margin"] == pytest.approx(after["eval_rewards/margins"], rel=1e-5)
    assert found["margin"] != 0


def test_the_first_process_tunes_a_whole_model_while_the_others_wait(shared, place, processes) -> None:
    shutil.copytree(shared, place, dirs_exist_ok=True)
    before = load_file("run/rewards/rewards.safetensors")["raw"]
    tuning = TuningConfig(lora=LoraConfig(rank=2), optim=OptimConfig(max_steps=1))
    config = toy_config(shard_over="all", rewards=RewardConfig(folds=2, ensemble=1, ridge=0.1, tuning=tuning))
    run_in_two_processes(place, processes, config, only="reward")
    assert not np.array_equal(load_file("run/rewards/rewards.safetensors")["raw"], before)
    assert np.isfinite(RewardModel.load("run/rewards/reward_model").score(["say\n"], ["red"], device="cpu").score)


def test_an_error_of_the_first_process_alone_ends_the_job_with_it(place) -> None:
    """The other waits in a barrier that would hold for hours."""
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    write_jsonl(DATA, toy_rows(12))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    settings = {"data.path": DATA, "data.eval_fraction": 0, "output_dir": "run", "device": "cpu", "shard_over": "all"}
    settings |= {"rewards.calibration": False, "weights.form": "strong", "weights.tau": 1e-300}
    sizes = {"vocab_size": 320, "hidden_size": 32, "layers": 2, "heads": 2}
    settings |= {f"model.tiny.{name}": size for name, size in sizes.items()}
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    job = subprocess.run([*command, "-m", "iwpo_fast", "run", *flags], capture_output=True, text=True, timeout=HANG)
    assert job.returncode == 1
    assert "weigh: importance weights" in job.stdout
    assert "iwpo: error on rank 0: " in job.stderr and "raise weights.tau" in job.stderr


def weights_of(place: Path) -> list[float]:
    return [row["weight"] for row in read_jsonl(place / "run/weights/train.jsonl")]


def features_of(place: Path, name: str) -> list[np.ndarray]:
    return [np.load(path) for path in sorted((place / "run/cache/features").rglob(f"{name}.npy"))]
