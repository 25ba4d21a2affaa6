"""Types of annotators on two processes, which are told apart and mixed as on one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from ranks import run_on_ranks
from toy_pairs import write_pairs

from iwpo_fast.config import LoraConfig, ModelConfig, ObjectiveConfig, TinyConfig, TrainConfig, TypesConfig
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


@pytest.mark.slow
def test_two_processes_tell_by_rankings_what_one_does(config, tmp_path) -> None:
    rows = [
        {"prompt": f"say {i % 7}: ", "ranked": [f"{i} red", "warm", "cold blue"][:: 1 - 2 * (i % 2)]} for i in range(30)
    ]
    path = tmp_path / "rankings.jsonl"
    path.write_text("".join(json.dumps(row | {"annotator": f"ann{i % 5}"}) + "\n" for i, row in enumerate(rows)))
    (tmp_path / "start.json").write_text(json.dumps({f"ann{i}": i % 2 for i in range(5)}))
    types = TypesConfig(rounds=1, start=str(tmp_path / "start.json"), mixture_prompts=0, votes="trained")
    objective = ObjectiveConfig("dpo_ranked", beta=1.0)
    alone = config(model=MODEL, types=types, objective=objective, output_dir=str(tmp_path / "one"))
    alone.data.path, alone.data.eval_fraction, alone.optim.max_steps = str(path), 0.0, 3
    train(alone)
    apart = replace(alone.data, cache_dir=str(tmp_path / "cache-of-two"))
    run_on_ranks(2, trained, replace(alone, data=apart, output_dir=str(tmp_path / "two")))
    one, two = (load_record(tmp_path / name / "annotators.json")["annotators"] for name in ("one", "two"))
    assert all(np.allclose(shares, two[name], atol=1e-3) for name, shares in one.items())
    assert max(abs(shares[0] - 0.5) for shares in one.values()) > 0.01
