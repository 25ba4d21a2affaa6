"""References that move, adapters of all kinds, samples and best checkpoints over shards are those of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ranks import run_on_ranks
from sharding_cases import TINY, save_family, train_until
from test_sharding import assert_same_model, logged
from toy_pairs import write_pairs

from iwpo_fast.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    ReferenceSyncConfig,
    TrainConfig,
)
from iwpo_fast.training import train


@pytest.mark.slow
def test_shards_train_what_one_process_does(tmp_path) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl", rows=42)
    untied = save_family(tmp_path / "llama", "llama", tie_word_embeddings=False)
    untied.lora = LoraConfig(rank=2, dora=True, rslora=True, modules_to_save=["lm_head", "embed_tokens"])
    last, best = CheckpointConfig(every=1, keep=1), CheckpointConfig(keep=1, best="eval_loss")
    kinds = {
        "moving": (ModelConfig(tiny=TINY), ReferenceSyncConfig(alpha=0.5, steps=2), last),
        "adapter": (untied, ReferenceSyncConfig(alpha=1.0, steps=2), last),
        "best": (ModelConfig(tiny=TINY), None, best),
    }

    def run(kind: str, name: str, shard_over: Any) -> TrainConfig:
        model, sync, checkpoint = kinds[kind]
        return TrainConfig(
            data=DataConfig(path=str(data), eval_fraction=0.2, cache_dir=str(tmp_path / f"cache-{name}")),
            model=model,
            reference_sync=sync,
            optim=OptimConfig(lr=1e-3, pairs_per_step=12, max_steps=4, epochs=4, tokens_per_batch=100),
            log=LogConfig(every=1, eval_every=1, samples=2, sample_tokens=4),
            checkpoint=checkpoint,
            output_dir=str(tmp_path / f"{name}-{kind}"),
            shard_over=shard_over,
            device="cpu",
        )

    whole, split = ([run(kind, name, over) for kind in kinds] for name, over in (("whole", 1), ("split", "all")))
    for config in whole:
        train(config)
    run_on_ranks(2, train_until, split, 3)
    run_on_ranks(2, train_until, split, None)
    for one, many in zip(whole, split, strict=True):
        for metric in ("loss", "grad_norm", "eval_loss"):
            assert logged(many, metric) == pytest.approx(logged(one, metric), rel=2e-5)
        assert samples_of(many) == samples_of(one)
        found, expected = (Path(config.output_dir) / "model" for config in (many, one))
        assert_same_model(found, expected, 2e-5)


def samples_of(config: TrainConfig) -> dict[str, list[str]]:
    files = sorted((Path(config.output_dir) / "samples").iterdir())
    return {path.name: [json.loads(line)["answer"] for line in path.read_text().splitlines()] for path in files}
