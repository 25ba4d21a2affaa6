"""Moments of 8 bits of parameters that processes share are those of one process, and so is what they train."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("bitsandbytes")

from ranks import run_on_ranks
from sharding_cases import train_until
from test_resume import losses, model_bytes
from test_sharding import assert_same_model, logged
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn import Parameter
from toy_pairs import write_pairs

from iwpo_fast.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    TinyConfig,
    TrainConfig,
)
from iwpo_fast.models.sharding import shard_mesh
from iwpo_fast.optimisation import make_optimizer, moments_bytes
from iwpo_fast.training import train
from iwpo_fast.world import World, full_tensor

SETTINGS = OptimConfig(name="adamw_8bit", lr=0.01, weight_decay=0.1)
WHOLE_BLOCKS = {"even": (64, 512), "uneven": (9, 1024), "fewer rows than processes": (3, 2048)}
OTHERS = {"rows of part of a block": (64, 100), "vector": (8192,), "small": (4, 256)}

Found = dict[str, dict[str, np.ndarray]]


def steps(shapes: dict[str, tuple[int, ...]], shard_over: Any, optim: OptimConfig = SETTINGS) -> tuple[Found, int, int]:
    """Parameters and moments after 20 steps, whole; bytes that the moments have here, and that were foretold."""
    mesh = shard_mesh(World.start("cpu"), shard_over)

    def placed(value: torch.Tensor) -> torch.Tensor:
        return value if mesh is None else distribute_tensor(value, mesh, [Shard(0)], src_data_rank=None)

    def drawn(shape: tuple[int, ...], seed: int) -> torch.Tensor:
        return placed(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))

    parameters = {name: Parameter(drawn(shape, 0)) for name, shape in shapes.items()}
    optimizer = make_optimizer(parameters, optim)
    for step in range(1, 21):
        for parameter in parameters.values():
            parameter.grad = (parameter + 0.1 * drawn(parameter.shape, step)).detach()
        optimizer.step()
    kept = {
        name: {key: value for key, value in optimizer.state[p].items() if not key.startswith("qmap")}
        for name, p in parameters.items()
    }
    tensors = [value for state in kept.values() for value in state.values() if isinstance(value, torch.Tensor)]
    held = sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors)
    foretold = sum(moments_bytes(p, optim, is_sharded=mesh is not None) for p in parameters.values())
    whole = {
        name: {
            key: full_tensor(torch.as_tensor(value)).detach().flatten().numpy().copy()
            for key, value in {"parameter": parameters[name], **state}.items()
        }
        for name, state in kept.items()
    }
    return whole, held, foretold


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_share_the_moments_of_one_bitwise_in_a_quarter_of_the_bytes(ranks) -> None:
    expected, *_ = steps(WHOLE_BLOCKS, 1)
    entries = sum(torch.Size(shape).numel() for shape in WHOLE_BLOCKS.values())
    found = run_on_ranks(ranks, steps, WHOLE_BLOCKS, "all")
    for whole, held, foretold in found:
        assert held == foretold
        assert whole.keys() == expected.keys()
        for name, state in expected.items():
            assert state["state1"].dtype == np.uint8
            for key, value in state.items():
                np.testing.assert_array_equal(whole[name][key], value, err_msg=f"{name}, {key}")
    assert sum(held for _, held, _ in found) == 2 * entries * (1 + 4 / 256)


@pytest.mark.slow
def test_parameters_that_cannot_be_split_between_blocks_keep_moments_of_32_bits() -> None:
    exact, *_ = steps(OTHERS, 1, dataclasses.replace(SETTINGS, name="adamw"))
    for whole, held, foretold in run_on_ranks(2, steps, OTHERS | WHOLE_BLOCKS, "all"):
        assert held == foretold
        for name, state in exact.items():
            assert whole[name]["state1"].dtype == np.float32
            np.testing.assert_allclose(whole[name]["parameter"], state["parameter"], rtol=1e-5, atol=1e-6)


def moments_of_nothing() -> str:
    with pytest.raises(ValueError) as refusal:
        steps(OTHERS, "all")
    return str(refusal.value)


@pytest.mark.slow
def test_a_model_none_of_whose_moments_would_have_8_bits_is_refused() -> None:
    for sentence in run_on_ranks(2, moments_of_nothing):
        assert sentence == (
            "optim.name is adamw_8bit and the model is sharded, but none of what is trained has at least 4096 entries "
            "in rows of a multiple of 256, which parts of 8 bits need: set optim.name to adamw."
        )


@pytest.fixture
def run(tmp_path) -> Any:
    data = write_pairs(tmp_path / "pairs.jsonl", rows=42, weight=[0.25 * (i % 7) for i in range(42)])

    def make(name: str, shard_over: Any, lora: LoraConfig | None = None) -> TrainConfig:
        return TrainConfig(
            data=DataConfig(path=str(data), eval_fraction=0.2, cache_dir=str(tmp_path / f"cache-{name}")),
            model=ModelConfig(tiny=TinyConfig(vocab_size=261, hidden_size=256, layers=1, heads=2), lora=lora),
            optim=OptimConfig(
                name="adamw_8bit", lr=1e-3, pairs_per_step=12, max_steps=5, epochs=4, tokens_per_batch=100
            ),
            log=LogConfig(every=1),
            checkpoint=CheckpointConfig(every=1, keep=1),
            output_dir=str(tmp_path / name),
            shard_over=shard_over,
            device="cpu",
        )

    return make


@pytest.mark.slow
def test_a_killed_run_of_two_processes_resumes_bitwise(run) -> None:
    whole, killed = run("whole", "all"), run("killed", "all")
    run_on_ranks(2, train_until, [whole], None)
    run_on_ranks(2, train_until, [killed], 2)
    run_on_ranks(2, train_until, [killed], None)
    assert losses(killed) == losses(whole)
    assert losses(whole)[-1][1] < 0.9 * losses(whole)[0][1]
    assert model_bytes(killed) == model_bytes(whole) != {}


@pytest.mark.slow
def test_runs_resume_on_other_numbers_of_processes_to_the_losses_of_one(run) -> None:
    one, many = run("one", 1), run("many", "all")
    train(one)
    run_on_ranks(2, train_until, [many], 1)
    run_on_ranks(4, train_until, [run("many", 2)], 2)
    run_on_ranks(1, train_until, [many], 3)  # which writes whole tensors
    run_on_ranks(2, train_until, [many], None)

    assert logged(many, "loss") == pytest.approx(logged(one, "loss"), rel=2e-5)
    assert len(logged(many, "loss")) == 5
    # Where a gradient's rounding moves a moment to the next code, a step of 1e-3 is another by some hundredths.
    assert_same_model(Path(many.output_dir) / "model", Path(one.output_dir) / "model", 1e-4)


@pytest.mark.slow
def test_a_parameter_that_has_8_bits_on_one_side_alone_is_named(run) -> None:
    """The second matrix of an adapter of rank 16 has 4096 entries, in rows of 16."""
    config = run("one", 1, lora=LoraConfig(rank=16))
    run_on_ranks(1, train_until, [config], 2)
    shared = dataclasses.replace(config, shard_over="all")
    with pytest.raises(
        RuntimeError, match=r"holds moments of \S+lora_B\S+ that have 8 bits where processes have the whole"
    ):
        run_on_ranks(2, train_until, [shared], None)
