"""The tokens that an estimate counts are those that the run computes, stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pipeline_cases import TINY, stages_done, toy_config, write_jsonl, write_toy_data

from iwpo_fast.config import (
    DataConfig,
    LogConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PlanConfig,
    RewardConfig,
    RunConfig,
    TrainConfig,
    TuningConfig,
    dataclass_from,
)
from iwpo_fast.models import load
from iwpo_fast.models.policy import Policy
from iwpo_fast.pipeline.manifest import Manifest
from iwpo_fast.planning.estimate import stage_estimates
from iwpo_fast.planning.setting import Setting
from iwpo_fast.training import train

SHARED, FLAT, PADDED = ({"share_prompts": True}, {"share_prompts": False}, {"batch_layout": "padded"})
PLAN = PlanConfig(on="h100")


def model(**options: Any) -> ModelConfig:
    return ModelConfig(tiny=TINY, **options)


def ultrafeedback(count: int = 24) -> list[dict[str, Any]]:
    """Rows of four completions with ratings, some of them alike."""
    words = ["red", "green", "blue", "warm", "cold", "small", "large"]
    rows = []
    for i in range(count):
        said = [" ".join(words[k : k + 1 + (i + 3 * k) % 5]) for k in range(4)]
        said[3] = said[0] if i % 6 == 0 else said[3]
        completions = [
            {"response": text, "annotations": {"helpfulness": {"Rating": str(1 + (i + k) % 5)}}}
            for k, text in enumerate(said)
        ]
        rows.append({"instruction": f"say {i} {' '.join(words[: i % 4])}", "completions": completions})
    return rows


@contextmanager
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Tokens that the layers of a model run, by stage; those of the check of a new model's layout are left out."""
    tokens: Counter[str] = Counter()
    stage, checking = ["train"], [0]
    decode, start, largest_error = Policy._decode, Manifest.start, load.largest_error

    def counted(self: Policy, batch: Any) -> Any:
        found = decode(self, batch)
        tokens[stage[0]] += 0 if checking[0] else found[0].shape[0]
        return found

    def started(self: Manifest, name: str, *others: Any) -> None:
        stage[0] = name
        start(self, name, *others)

    def unseen(*arguments: Any) -> Any:
        checking[0] += 1
        try:
            return largest_error(*arguments)
        finally:
            checking[0] -= 1

    with monkeypatch.context() as patched:
        patched.setattr(Policy, "_decode", counted)
        patched.setattr(Manifest, "start", started)
        patched.setattr(load, "largest_error", unseen)
        yield tokens


def planned(config: TrainConfig, *stages: str) -> dict[str, int]:
    setting = Setting.of(replace(config, plan=PLAN, dry_run=True))
    return {name: found.work.tokens for name, found in stage_estimates(setting, stages).items() if found.work.tokens}


@pytest.mark.slow
@pytest.mark.parametrize("parts", [SHARED, FLAT, PADDED], ids=["shared", "flat", "padded"])
def test_every_stage_computes_the_tokens_that_were_planned(
    place: Path, monkeypatch: Any, parts: dict[str, Any]
) -> None:
    write_toy_data()
    optim = OptimConfig(lr=1e-3, pairs_per_step=8, epochs=1.5, tokens_per_batch=256)
    config = toy_config(model=model(**parts), optim=optim, log=LogConfig(every=1, eval_every=7))
    before = planned(config, "prepare", "reference", "cluster", "reward", "weigh", "train", "evaluate")
    with computed(monkeypatch) as tokens:
        stages_done(config)
    assert before == dict(+tokens)
    assert before.keys() == {"reference", "train"}  # the last evaluation of the training is that of the run


@pytest.mark.slow
def test_candidates_that_are_in_no_pair_are_planned_for_the_frozen_model_alone(place: Path, monkeypatch: Any) -> None:
    data = DataConfig(path=str(write_jsonl("rated.jsonl", ultrafeedback())), eval_fraction=0.2, as_chat=True)
    config = toy_config(data=data, model=model(**SHARED))
    before = planned(config, "reference", "train", "evaluate")
    with computed(monkeypatch) as tokens:
        stages_done(config)
    assert before == dict(+tokens)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "self_test"),
    [(ObjectiveConfig(), True), (ObjectiveConfig("simpo"), True), (ObjectiveConfig("bco"), False)],
    ids=["reference", "no_reference", "statistics_of_the_step"],
)
def test_training_alone_computes_the_tokens_that_were_planned(
    place: Path, monkeypatch: Any, objective: ObjectiveConfig, self_test: bool
) -> None:
    write_toy_data()
    whole = toy_config(model=model(**SHARED), objective=objective, self_test=self_test)
    config = dataclass_from(TrainConfig, whole)
    config = replace(config, data=replace(config.data, cache_dir="cache"))
    before = planned(config, "reference", "train")
    with computed(monkeypatch) as tokens:
        train(config)
    assert sum(before.values()) == tokens["train"]
    assert ("reference" in before) == (objective.name != "simpo")


@pytest.mark.slow
def test_tuned_rewards_are_planned_to_within_what_bootstraps_and_folds_draw(place: Path, monkeypatch: Any) -> None:
    write_toy_data()
    optim = OptimConfig(lr=1e-3, pairs_per_step=8, tokens_per_batch=256)
    tuning = RewardConfig(tuning=TuningConfig(lora=LoraConfig(rank=2), optim=optim), folds=2, ensemble=1)
    config = toy_config(model=model(**FLAT), rewards=tuning)
    before = planned(config, "reward")
    with computed(monkeypatch) as tokens:
        stages_done(config)
    assert before["reward"] == pytest.approx(tokens["reward"], rel=0.05)
    of_run = RewardConfig(source="iwpo", model="run/rewards/reward_model")
    other = toy_config(model=model(**FLAT), rewards=of_run, output_dir="other")
    before = planned(other, "reward")
    with computed(monkeypatch) as tokens:
        stages_done(other)
    assert 2 * before["reward"] == 3 * tokens["reward"]  # here the frozen pass is that of the stage `reference`


def test_an_estimate_leaves_nothing_behind(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_toy_data()
    for config in (toy_config(), dataclass_from(TrainConfig, toy_config())):
        ready = replace(config, plan=PLAN, dry_run=True)
        stages_done(ready) if isinstance(ready, RunConfig) else train(ready)
    assert sorted(path.name for path in place.iterdir()) == ["pairs.jsonl"]
