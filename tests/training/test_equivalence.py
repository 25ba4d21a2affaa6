"""The numbers of a run do not depend on how a step is cut into micro-batches or spread over processes."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import yaml
from ranks import run_on_ranks
from toy_pairs import write_pairs

from iwpo_fast.config import DataConfig, ObjectiveConfig, OptimConfig, TrainConfig
from iwpo_fast.training import train


def logged(config: TrainConfig, key: str) -> list[float]:
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [metrics[key] for metrics in map(json.loads, lines) if key in metrics]


def weighted(tmp_path: Path) -> DataConfig:
    rows = 42  # the last step of an epoch is ragged
    path = write_pairs(
        tmp_path / "weighted.jsonl",
        rows=rows,
        weight=[0.25 * (i % 7) for i in range(rows)],
        label_smoothing=[0.1 * (i % 3) for i in range(rows)],
    )
    return DataConfig(path=str(path), eval_fraction=0.2, cache_dir=str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sigmoid", "ipo"])
def test_accumulation_1x8_2x4_and_8x1_give_the_same_losses(config, tmp_path, objective) -> None:
    runs = {}
    for pairs in (8, 4, 1):
        settings = config(
            data=weighted(tmp_path),
            objective=ObjectiveConfig(name=objective),
            optim=OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=8, epochs=4, max_pairs_per_batch=pairs),
            output_dir=str(tmp_path / f"run-{pairs}"),
        )
        train(settings)
        runs[pairs] = logged(settings, "loss")
    assert len(runs[8]) == 8
    assert runs[4] == pytest.approx(runs[8], rel=2e-5)
    assert runs[1] == pytest.approx(runs[8], rel=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sigmoid", "ld_dpo"])
def test_shared_prompts_and_separate_sequences_give_the_same_losses(config, tmp_path, capsys, objective) -> None:
    runs = {}
    for share in (True, False):
        settings = config(
            data=weighted(tmp_path),
            model=dataclasses.replace(config().model, share_prompts=share),
            objective=ObjectiveConfig(name=objective),
            output_dir=str(tmp_path / f"shared-{share}"),
        )
        train(settings)
        words = "flat batches with each prompt once" if share else "flat batches of separate sequences"
        assert f"{words} (asked for)" in capsys.readouterr().out
        runs[share] = {key: logged(settings, key) for key in ("loss", "grad_norm", "rewards/margins", "eval_loss")}
    assert len(set(runs[False]["loss"])) == 8
    for key, separate in runs[False].items():
        assert runs[True][key] == pytest.approx(separate, rel=1e-5, abs=1e-6), key


def train_by_command(recipe: Path) -> int:
    from iwpo_fast.cli import main

    os.environ["IWPO_DEBUG"] = "1"  # an error is raised, for whoever asked to see
    return main(["train", "--config", str(recipe)])


STATISTICS = {"kto": 1.0, "beta_dpo": 0.5, "bco": 0.3, "sft": 0.2}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sigmoid", STATISTICS, "aot"], ids=str)
def test_two_processes_give_the_same_losses_and_metrics_as_one(config, tmp_path, name) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    smoothing = {} if name == "aot" else {"label_smoothing": [0.1 * (i % 3) for i in range(42)]}
    path = write_pairs(tmp_path / "pairs.jsonl", rows=42, weight=[0.25 * (i % 7) for i in range(42)], **smoothing)
    data = DataConfig(path=str(path), eval_fraction=0.2, cache_dir=str(tmp_path / "cache"))
    one, two = (
        config(data=data, objective=ObjectiveConfig(name=name), output_dir=str(tmp_path / folder))
        for folder in ("one", "two")
    )
    train(one)
    recipe = tmp_path / "two.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(two)))))
    assert run_on_ranks(2, train_by_command, recipe) == [0, 0]
    for key in (
        "loss",
        "grad_norm",
        "rewards/margins",
        "rewards/accuracies",
        "eval_loss",
        "weights/ess_frac",
    ):
        assert logged(two, key) == pytest.approx(logged(one, key), rel=2e-5, abs=1e-7), key


def test_evaluation_does_not_depend_on_the_token_budget(config, tmp_path) -> None:
    evaluations = []
    for budget in (64, 100_000):
        settings = config(
            optim=OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=1, tokens_per_batch=budget),
            output_dir=str(tmp_path / f"budget-{budget}"),
        )
        evaluations.append(train(settings).after)
    small, large = evaluations
    assert small["eval_rewards/accuracies"] == large["eval_rewards/accuracies"]
    assert small["eval_loss"] == pytest.approx(large["eval_loss"], rel=1e-5)
