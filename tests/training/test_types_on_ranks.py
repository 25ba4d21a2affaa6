"""Types of annotators on two processes, which are told apart and mixed as on one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from ranks import run_on_ranks
from toy_pairs import write_pairs

from iwpo_fast.config import LoraConfig, ModelConfig, TinyConfig, TrainConfig, TypesConfig
from iwpo_fast.files import load_record
from iwpo_fast.training import train

MODEL = ModelConfig(tiny=TinyConfig(vocab_size=320, hidden_size=32, layers=1, heads=2), lora=LoraConfig(rank=2))


def trained(config: TrainConfig) -> None:
    train(config)


@pytest.mark.slow
def test_two_processes_find_what_one_does(config, tmp_path) -> None:
    path = write_pairs(tmp_path / "votes.jsonl", rows=40, annotator=[f"ann{i % 5}" for i in range(40)])
    (tmp_path / "start.json").write_text(json.dumps({f"ann{i}": i % 2 for i in range(5)}))
    types = TypesConfig(rounds=2, start=str(tmp_path / "start.json"), mixture_prompts=6, mixture_tokens=3)
    alone = config(model=MODEL, types=types, output_dir=str(tmp_path / "one"))
    alone.data.path, alone.data.eval_fraction, alone.optim.max_steps = str(path), 0.4, 4
    train(alone)
    run_on_ranks(2, trained, replace(alone, output_dir=str(tmp_path / "two")))
    one, two = (load_record(tmp_path / name / "annotators.json") for name in ("one", "two"))
    for name, shares in one["annotators"].items():
        assert np.allclose(shares, two["annotators"][name], atol=1e-3)
    one, two = (load_record(tmp_path / name / "mixture" / "mixture.json") for name in ("one", "two"))
    assert np.allclose(one["gains"], two["gains"], atol=1e-3)
