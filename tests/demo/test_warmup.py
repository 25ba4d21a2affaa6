"""The supervised warm-up by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from iwpo_fast.config import DataConfig, ModelConfig, OptimConfig, TinyConfig
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.demo.warmup import supervise
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.world import World


def test_the_warm_up_takes_the_steps_of_its_epochs_and_no_more_than_it_may(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"say {i}:\n", "chosen": f"{i} {i}", "rejected": "no"} for i in range(10)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = DataConfig(path=str(path), eval_fraction=0.0, cache_dir=str(tmp_path / "cache"))
    model = ModelConfig(tiny=TinyConfig(vocab_size=300, hidden_size=32, layers=1, heads=2))
    rows, _ = read_rows(data)
    tokenizer = load_tokenizer(model, rows.texts())
    pairs, _ = tokenise(rows, tokenizer, data)
    policy = load_policy(model, tokenizer, World(0, 1, torch.device("cpu")), seed=0)
    optim = OptimConfig(lr=1e-3, pairs_per_step=4, epochs=2)
    assert len(supervise(policy, pairs, optim, seed=0)) == 6
    assert len(supervise(policy, pairs, replace(optim, max_steps=2), seed=0)) == 2
