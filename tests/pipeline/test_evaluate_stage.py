"""The stage `evaluate` takes over what the training's evaluations found, and finds the same bytes where it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pipeline_cases import results, stages_done, toy_config, write_toy_data

from iwpo_fast.config import ObjectiveConfig, OptimConfig, ReferenceSyncConfig, RunConfig
from iwpo_fast.files import load_record, load_with_metadata
from iwpo_fast.models.policy import Policy
from iwpo_fast.pipeline.manifest import Manifest

KEPT = Path("run/train/held_out")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stage of every batch that a model runs."""
    found, stage, forward, start = list[str](), [""], Policy.forward, Manifest.start

    def counted(self: Policy, *batch: Any, **options: Any) -> Any:
        found.append(stage[0])
        return forward(self, *batch, **options)

    def started(self: Manifest, name: str, *others: Any) -> None:
        stage[0] = name
        start(self, name, *others)

    monkeypatch.setattr(Policy, "forward", counted)
    monkeypatch.setattr(Manifest, "start", started)
    return found


def evaluated(config: RunConfig) -> dict[str, bytes]:
    """What the stage alone leaves."""
    assert stages_done(config, only="evaluate") == ["evaluate"]
    return {name: content for name, content in results(Path()).items() if name.startswith("evaluation/")}


def test_held_out_pairs_are_run_by_the_training_alone(copied: Path, passes: list[str]) -> None:
    taken_over = evaluated(toy_config())
    assert not passes
    shutil.rmtree("run/train/checkpoints")
    assert evaluated(toy_config()) == taken_over


@pytest.mark.slow
@pytest.mark.parametrize("objective", [ObjectiveConfig(), ObjectiveConfig("simpo")], ids=["dpo", "simpo"])
def test_what_training_found_is_bitwise_what_the_stage_finds(
    place: Path, passes: list[str], objective: ObjectiveConfig
) -> None:
    write_toy_data()
    config = toy_config(objective=objective)
    stages_done(config)
    assert passes and "evaluate" not in passes
    taken_over = evaluated(config)
    shutil.rmtree(KEPT)
    assert evaluated(config) == taken_over
    assert "evaluate" in passes


@pytest.mark.slow
def test_a_damaged_file_of_margins_is_not_taken_over(copied: Path) -> None:
    taken_over = evaluated(toy_config())
    for path in KEPT.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert evaluated(toy_config()) == taken_over


@pytest.mark.slow
def test_the_accuracy_of_the_stage_is_that_of_the_training_where_margins_are_rounding(place: Path) -> None:
    write_toy_data()
    config = toy_config(optim=OptimConfig(lr=1e-12, pairs_per_step=8, max_steps=2, tokens_per_batch=256))
    stages_done(config)
    trained = load_record(Path("run/train/summary.json"))["after"]["eval_rewards/accuracies"]
    assert json.loads(Path("run/evaluation/evaluation.json").read_text())["all"]["accuracy"] == trained == 0.5
    assert load_with_metadata(KEPT / "step-00000002.safetensors")[0]["margin"].any()  # so that exact ties are not all


@pytest.mark.slow
def test_a_reference_that_moves_is_another_quantity(place: Path, passes: list[str]) -> None:
    write_toy_data()
    optim = OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=4, tokens_per_batch=1024)
    config = toy_config(optim=optim, reference_sync=ReferenceSyncConfig(alpha=0.5, steps=2))
    stages_done(config)
    taken_over = evaluated(config)
    shutil.rmtree(KEPT)
    assert evaluated(config) == taken_over
