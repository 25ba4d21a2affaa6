"""Micro-batches of steps made ahead: the same training with and without threads, and steps that do not mix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_pairs import write_pairs

from iwpo_fast.config import DataConfig, ModelConfig, ObjectiveConfig, OptimConfig, TinyConfig, TrainConfig
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.training import loop, train
from iwpo_fast.training.job import Job, batches_ahead, one_step
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.world import World


def results(settings: TrainConfig) -> tuple[list[dict[str, float]], bytes]:
    folder = Path(settings.output_dir)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in line.items() if not name.startswith("perf/")} for line in lines]
    return kept, (folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sigmoid", {"bco": 1.0, "sft": 0.1}])
def test_threads_train_the_same_bytes_and_a_killed_run_may_go_on_with_another_number(
    config, tmp_path, objective
) -> None:
    found = []
    for workers in (0, 2):
        settings = config(objective=ObjectiveConfig(name=objective), output_dir=str(tmp_path / str(workers)))
        settings.data.workers, settings.optim.tokens_per_batch = workers, 100
        if workers:
            real, calls = loop.train_step, []

            def killed(*arguments, real=real, calls=calls) -> object:
                calls.append(1)
                if len(calls) == 5:
                    raise KeyboardInterrupt
                return real(*arguments)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(loop, "train_step", killed)
                with pytest.raises(KeyboardInterrupt):
                    train(settings)
            settings.data.workers = 1
        train(settings)
        found.append(results(settings))
    assert found[0] == found[1]


def test_a_negative_number_of_workers_is_refused(config) -> None:
    settings = config()
    settings.data.workers = -1
    with pytest.raises(ValueError, match=r"data\.workers is -1: it must be 0 or more, or auto\."):
        train(settings)


def test_a_step_ends_with_its_last_micro_batch_and_ranks_without_a_pair_get_the_shortest(tmp_path) -> None:
    data = DataConfig(path=str(write_pairs(tmp_path / "pairs.jsonl", rows=20)), cache_dir=str(tmp_path))
    rows, _ = read_rows(data)
    model = ModelConfig(tiny=TinyConfig(vocab_size=320, hidden_size=32, layers=1, heads=1))
    tokenizer = load_tokenizer(model, rows.texts())
    pairs, _ = tokenise(rows, tokenizer, data, progress=False)
    world = World(1, 2, torch.device("cpu"))
    policy = load_policy(model, tokenizer, world, seed=0, max_length=100)
    config = TrainConfig(data=data, optim=OptimConfig(max_pairs_per_batch=2))
    steps = [np.arange(7), np.arange(7, 10)]
    loss = PreferenceLoss(ObjectiveConfig(name="simpo"))
    job = Job(config, world, policy, loss, pairs)
    batches = batches_ahead(job, steps)
    first, second = list(one_step(batches)), list(one_step(batches))
    assert [[micro_batch.left for micro_batch, _ in step] for step in (first, second)] == [[1, 0], [0]]
    for rows_of_step, found in zip(steps, (first, second), strict=True):
        for micro_batch, batch in found:
            assert set(micro_batch.rows) <= set(rows_of_step)
            assert batch.rows.tolist() == (micro_batch.rows.tolist() or [pairs.tokens.argmin()])
            assert batch.tables is not None
    assert not list(batches)
    alone = batches_ahead(job, [np.array([3])])
    [(micro_batch, batch)] = alone
    assert not len(micro_batch.rows) and batch.rows.tolist() == [pairs.tokens.argmin()]
