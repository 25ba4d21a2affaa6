"""A model split over processes trains to the numbers of one that is whole, whatever the number of processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import HANG
from ranks import run_on_ranks
from safetensors.torch import load_file
from sharding_cases import OBJECTIVES, Results, half_precision, model_configs, steps_of, train_until
from toy_pairs import write_pairs
from transformers import AutoModelForCausalLM

from iwpo_fast.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from iwpo_fast.models.sharding import shard_mesh
from iwpo_fast.training import train
from iwpo_fast.training.checkpoint import checkpoints, load_weights
from iwpo_fast.world import World


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def models(folder) -> dict[str, ModelConfig]:
    return model_configs(folder)


@pytest.fixture(scope="module")
def alone(folder, models) -> dict[str, Results]:
    return steps_of(models, folder / "alone", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "shard_over", "left_out"),
    # Copies add up their gradients behind the layers, so a compiled layer, which takes as long as all else, sees none.
    [(2, "all", ""), (4, 2, "untied, compiled")],
    ids=["2 ranks", "2 copies on 4 ranks"],
)
def test_shards_give_the_gradients_metrics_and_files_of_the_whole_model(
    folder, models, alone, ranks, shard_over, left_out
) -> None:
    models = {name: model for name, model in models.items() if name != left_out}
    on_ranks = run_on_ranks(ranks, steps_of, models, folder / f"on-{ranks}", shard_over)
    for rank, found in enumerate(on_ranks):
        assert found.keys() == models.keys()
        for model in models:
            expected = alone[model]
            assert len(expected) > 3
            for what, value in expected.items():
                where = f"rank {rank}, {model}, {what}"
                if isinstance(value, dict):
                    assert_same_step(found[model][what], value, where)
                elif isinstance(value, str):
                    assert found[model][what] == value, where
                else:
                    np.testing.assert_allclose(found[model][what], value, rtol=1e-6, err_msg=where)
    for model in models:
        assert_same_model(folder / f"on-{ranks}" / model, folder / "alone" / model, 0.0)
    tied = AutoModelForCausalLM.from_pretrained(folder / f"on-{ranks}" / "tied")
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


@pytest.mark.slow
def test_shards_in_half_precision_are_gathered_once_a_pass_and_keep_float32_gradients_and_residual_stream() -> None:
    alone, (found, _) = half_precision(1), run_on_ranks(2, half_precision, "all")
    for name, expected in alone.items():
        assert found[name]["gradient types"] == {"torch.float32"}
        assert found[name]["hidden type"] == expected["hidden type"]
        # Two layers forward and backward; embedding, norm and tied head once for both.
        assert found[name]["gathers"] == 2 * 2 + 1
        # A frozen base is bf16 in either case; of master weights the whole model reads norms and embedding in float32.
        error = {"adapter": 0.0, "all weights": 0.03}[name]
        np.testing.assert_allclose(found[name]["logps"], expected["logps"], rtol=0, atol=error)
        for parameter, gradient in expected["gradients"].items():
            distance = np.linalg.norm(found[name]["gradients"][parameter] - gradient)
            assert distance <= error * np.linalg.norm(gradient), f"{name}, {parameter}"


@pytest.mark.slow
def test_the_cases_are_what_they_are_called(alone) -> None:
    assert {step.split(",")[0] for step in alone["tied"] if "pairs" in step} == OBJECTIVES.keys()
    assert {model: steps["layout"] for model, steps in alone.items()} == {
        "tied": "shared",
        "untied, compiled": "shared",
        "padded": "padded",
        "adapter": "shared",
        "adapted head": "shared",
    }
    assert alone["tied"]["five with statistics of the step, 9 pairs"]["state"]


def assert_same_step(found: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-5, abs=1e-6), where
    for name, state in expected["state"].items():
        assert found["state"][name] == pytest.approx(state, rel=1e-5), where
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        largest = np.abs(gradient).max()
        assert np.abs(found["gradients"][name] - gradient).max() <= 1e-5 * largest + 1e-8, f"{where}, {name}"
    assert max(np.abs(gradient).max() for gradient in expected["gradients"].values()) > 1e-4, where


@pytest.mark.slow
def test_runs_resume_on_other_numbers_of_ranks_to_the_losses_and_the_model_of_one_process(folder, models) -> None:
    data = write_pairs(folder / "pairs.jsonl", rows=42, weight=[0.25 * (i % 7) for i in range(42)])
    kinds = {
        "full": models["tied"],
        "adapter": models["adapted head"],
    }

    def run(kind: str, name: str, shard_over: Any) -> TrainConfig:
        return TrainConfig(
            data=DataConfig(path=str(data), eval_fraction=0.2, cache_dir=str(folder / f"cache-{name}")),
            model=kinds[kind],
            optim=OptimConfig(lr=1e-3, pairs_per_step=12, max_steps=5, epochs=4, tokens_per_batch=100),
            log=LogConfig(every=1),
            checkpoint=CheckpointConfig(every=1, keep=1),
            output_dir=str(folder / f"{name}-{kind}"),
            shard_over=shard_over,
            device="cpu",
        )

    whole = [run(kind, "whole", 1) for kind in kinds]
    for config in whole:
        train(config)
    split = [run(kind, "split", "all") for kind in kinds]
    run_on_ranks(2, train_until, split, 1)
    for config in split:
        (saved,) = checkpoints(Path(config.output_dir) / "checkpoints")
        parts = sorted(saved.glob("shard-*.safetensors"))
        assert {part.name[:11] for part in parts} == {"shard-00001", "shard-00002"}
        assert not (saved / ".metadata").exists()  # which would be a pickle
        assert_every_part_is_looked_at(saved, parts)
    run_on_ranks(4, train_until, [run(kind, "split", 2) for kind in kinds], 2)
    run_on_ranks(1, train_until, split, 3)  # which writes whole tensors
    run_on_ranks(2, train_until, split, None)
    for one, many in zip(whole, split, strict=True):
        assert logged(many, "loss") == pytest.approx(logged(one, "loss"), rel=2e-5)
        assert logged(many, "grad_norm") == pytest.approx(logged(one, "grad_norm"), rel=2e-5)
        assert len(logged(many, "loss")) == 5
        # Adam divides by the size of gradients, and so makes rounding of those near 0 larger.
        assert_same_model(Path(many.output_dir) / "model", Path(one.output_dir) / "model", 2e-5)


def assert_every_part_is_looked_at(saved: Path, parts: list[Path]) -> None:
    for part in parts:
        whole = part.read_bytes()
        part.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
        with pytest.raises(ValueError, match=f"{saved.name} is damaged: delete this folder"):
            load_weights(saved.parent, {}, World(0, 1, torch.device("cpu")))
        part.write_bytes(whole)


def logged(config: TrainConfig, key: str) -> list[float]:
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [metrics[key] for metrics in map(json.loads, lines) if key in metrics]


def assert_same_model(found: Path, expected: Path, atol: float) -> None:
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}
    (ours,), (theirs,) = ([load_file(path) for path in place.glob("*.safetensors")] for place in (found, expected))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("shard_over", [3, 0, -2])
def test_processes_that_cannot_be_split_into_equal_groups_are_refused(shard_over) -> None:
    world = World(0, 4, torch.device("cpu"))
    with pytest.raises(ValueError, match=f"shard_over is {shard_over} but the job's 4 processes"):
        shard_mesh(world, shard_over)


def test_machines_of_which_one_has_fewer_processes_are_refused() -> None:
    world = World(0, 4, torch.device("cpu"), local_rank=0, local_size=3)
    with pytest.raises(ValueError, match=r"shard_over is node .* groups of 3"):
        shard_mesh(world, "node")


def test_one_process_shards_nothing() -> None:
    world = World(0, 1, torch.device("cpu"))
    assert shard_mesh(world, "all") is shard_mesh(world, "node") is shard_mesh(world, 1) is None


FAILING = """
import os
from iwpo_fast.world import World

world = World.start("cpu")
world.barrier()
if world.rank == 1:
    raise ValueError("rank 1 has lost its data.")
world.barrier()
"""


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_job_with_its_error(tmp_path) -> None:
    """The other waits in a barrier that would hold for hours."""
    program = tmp_path / "failing.py"
    program.write_text(FAILING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    job = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    assert job.returncode == 1
    assert "ValueError: rank 1 has lost its data." in job.stderr
