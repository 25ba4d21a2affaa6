"""A 4-bit base that processes share is the same base, and the adapter on it learns the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("bitsandbytes")

from ranks import run_on_ranks
from sharding_cases import TINY, TOKENIZER_TEXTS, save_family, steps_of, train_until
from test_sharding import assert_same_model, assert_same_step, logged
from torch.distributed.tensor import DTensor
from toy_pairs import write_pairs

from iwpo_fast.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from iwpo_fast.models import four_bits, load_policy
from iwpo_fast.models.sharding import gathered_bytes, shard_mesh
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.planning.memory import expected_memory
from iwpo_fast.training import train
from iwpo_fast.world import World

WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
CODES = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 128
"""Entries of the linear layers of a decoder layer."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, ModelConfig]:
    folder = tmp_path_factory.mktemp("four_bits")
    plain = save_family(folder / "llama", "llama", tie_word_embeddings=False, **WIDE)
    biased = save_family(folder / "qwen2", "qwen2", tie_word_embeddings=True, **WIDE)
    kinds = {
        "recomputed": dataclasses.replace(plain, lora=LoraConfig(rank=4), gradient_checkpointing="full"),
        "with biases": dataclasses.replace(biased, lora=LoraConfig(rank=4)),
        "dora": dataclasses.replace(plain, lora=LoraConfig(rank=4, dora=True)),
    }
    return {name: dataclasses.replace(model, quantize="nf4") for name, model in kinds.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "shard_over"), [(2, "all"), (4, 2)], ids=["2 ranks", "2 copies on 4 ranks"])
def test_log_probs_gradients_and_files_are_those_of_one_process(models, tmp_path, ranks, shard_over) -> None:
    alone = steps_of(models, tmp_path / "alone", 1)
    for rank, found in enumerate(run_on_ranks(ranks, steps_of, models, tmp_path / "many", shard_over)):
        for name, expected in alone.items():
            where = f"rank {rank}, {name}"
            assert found[name]["fingerprint"] == expected["fingerprint"], where
            np.testing.assert_allclose(found[name]["reference"], expected["reference"], rtol=1e-6, err_msg=where)
            steps = [what for what, value in expected.items() if isinstance(value, dict)]
            assert len(steps) == 2
            for what in steps:
                assert_same_step(found[name][what], expected[what], f"{where}, {what}")
    for name in models:
        assert_same_model(tmp_path / "many" / name, tmp_path / "alone" / name, 0.0)


def held(model: ModelConfig, shard_over: Any) -> dict[str, float]:
    """Bytes of codes, of their scales and of all weights here, those that are foretold, and those of a gathering."""
    world = World.start("cpu")
    tokenizer = train_tokenizer(TOKENIZER_TEXTS, TINY.vocab_size)
    mesh = shard_mesh(world, shard_over)
    policy = load_policy(model, tokenizer, world, seed=5, max_length=20, mesh=mesh)
    parts = [p.to_local() if isinstance(p, DTensor) else p for p in policy.parameters()]
    config = TrainConfig(data=DataConfig(path=""), model=model, shard_over=shard_over)
    scales = sum(each.nbytes for p in policy.parameters() for each in four_bits.scales(p).values())
    return {
        "codes": sum(part.nbytes for part in parts if not part.is_floating_point()),
        "scales": scales,
        "weights": sum(part.nbytes for part in parts) + scales,
        "foretold": expected_memory(config, policy, 20)["weights"],
        "gathered": gathered_bytes(policy),
        "entries": sum(four_bits.entries(p) for p in policy.parameters()),
    }


@pytest.mark.slow
def test_processes_share_the_codes_and_each_has_the_scales(models) -> None:
    one, many = held(models["recomputed"], 1), run_on_ranks(2, held, models["recomputed"], "all")
    assert one["codes"] == 2 * CODES / 2
    for found in many:
        assert found["codes"] == one["codes"] / 2
        assert found["scales"] == one["scales"] > 0
        assert found["entries"] == one["entries"]
        assert found["weights"] == found["foretold"]
        plain = one["entries"] - 2 * CODES
        assert found["gathered"] == 4 * plain + one["codes"]


@pytest.mark.slow
def test_a_run_on_other_numbers_of_processes_learns_what_one_does(models, tmp_path) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl", rows=42)

    def run(name: str, shard_over: Any) -> TrainConfig:
        return TrainConfig(
            data=DataConfig(path=str(data), eval_fraction=0.2, cache_dir=str(tmp_path / f"cache-{name}")),
            model=models["recomputed"],
            optim=OptimConfig(lr=5e-3, pairs_per_step=12, max_steps=4, epochs=4, tokens_per_batch=100),
            log=LogConfig(every=1, samples=2, sample_tokens=4, eval_every=2),
            checkpoint=CheckpointConfig(every=1, keep=1),
            output_dir=str(tmp_path / name),
            shard_over=shard_over,
            device="cpu",
        )

    one, many = run("one", 1), run("many", "all")
    train(one)
    run_on_ranks(2, train_until, [many], 2)
    run_on_ranks(1, train_until, [many], 3)
    run_on_ranks(2, train_until, [many], None)
    for metric in ("loss", "grad_norm", "eval_loss"):
        assert logged(many, metric) == pytest.approx(logged(one, metric), rel=2e-5)
    assert logged(one, "loss")[-1] < 0.95 * logged(one, "loss")[0]
    assert_same_model(Path(many.output_dir) / "model", Path(one.output_dir) / "model", 2e-5)
