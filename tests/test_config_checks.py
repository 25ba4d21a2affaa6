"""A setting that would have no effect beside the others is refused with one sentence, from Python as from a command."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from iwpo_fast.config import (
    ClusterConfig,
    DataConfig,
    LogConfig,
    MixedConfig,
    OptimConfig,
    RewardConfig,
    RunConfig,
    TuningConfig,
    WeightConfig,
)
from iwpo_fast.config_checks import check_config

DATA = DataConfig(path="pairs.jsonl", cache_dir="cache")
NO_CALIBRATION = RewardConfig(calibration=False)
NO_WEIGHTS = WeightConfig(method="none", soft_labels=0.0)
CONSTANT = OptimConfig(schedule="constant")
ONE_CLUSTER = ClusterConfig(count=1)
GRADED = RewardConfig(heads="dprm")
MIXTURE = ClusterConfig(method="mixture")

WITHOUT_EFFECT: list[tuple[dict[str, Any], str]] = [
    (
        {"data": replace(DATA, eval_path="held_out.jsonl", eval_fraction=0.1)},
        "data.eval_fraction is 0.1 and data.eval_path is held_out.jsonl, which alone is held out then: set "
        "data.eval_fraction to 0, or leave data.eval_path out.",
    ),
    (
        {"data": replace(DATA, eval_split="test", eval_fraction=0.1)},
        "data.eval_fraction is 0.1 and data.eval_split is test, which alone is held out then: set",
    ),
    (
        {"optim": replace(CONSTANT, min_lr_fraction=0.1)},
        "optim.min_lr_fraction is 0.1 and optim.schedule is constant, which stays at its peak: leave optim.min",
    ),
    (
        {"rewards": RewardConfig(tuning=TuningConfig(optim=replace(CONSTANT, min_lr_fraction=0.1)))},
        "rewards.tuning.optim.min_lr_fraction is 0.1 and rewards.tuning.optim.schedule is constant, which stays at",
    ),
    ({"log": LogConfig(project="mine")}, "log.project is mine and log.trackers names neither wandb nor trackio, which"),
    (
        {"rewards": replace(NO_CALIBRATION, max_reward=3.0)},
        "rewards.max_reward is 3.0 and rewards.calibration is false, which leaves rewards as they are: leave rewards.m",
    ),
    (
        {"rewards": replace(NO_CALIBRATION, calibration_strength=0.0)},
        "rewards.calibration_strength is 0.0 and rewards.calibration is false, which leaves rewards as they are: leave",
    ),
    (
        {"rewards": GRADED, "data": replace(DATA, pairs_from_candidates="pareto")},
        "data.pairs_from_candidates is pareto, which takes several scores of a candidate for different rewards, and "
        "rewards.heads is dprm, which takes them for votes: set it to best_worst or all, or set rewards.heads to auto.",
    ),
    (
        {"rewards": GRADED, "data": replace(DATA, win_rate_temperature=2.0)},
        "data.win_rate_temperature is 2.0, which makes rates of winning of scores, and rewards.heads is dprm, which",
    ),
    (
        {"rewards": GRADED, "data": replace(DATA, mix=[MixedConfig("b", columns={"candidate_scores": "kind+safe"})])},
        "data.columns joins kind and safe as different rewards of a candidate, and rewards.heads is dprm, which takes",
    ),
    (
        {"rewards": RewardConfig(source="columns"), "clusters": MIXTURE},
        "clusters.method is mixture and rewards.source is columns, but a mixture is learnt with heads on features: set",
    ),
    (
        {"clusters": replace(MIXTURE, count=1)},
        "clusters.method is mixture and clusters.count is 1, and one cluster has no gate: raise clusters.count, or set",
    ),
    (
        {"rewards": RewardConfig(residual=0.1), "clusters": ONE_CLUSTER},
        "rewards.residual is 0.1 and clusters.count is 1, and a single cluster has no residual: leave rewards.residual",
    ),
    (
        {"weights": replace(NO_WEIGHTS, min_ess=0.0)},
        "weights.min_ess is 0.0 and weights.method is none, which does not read it: leave weights.min_ess out",
    ),
    ({"weights": replace(NO_WEIGHTS, force=True)}, "weights.force is True and weights.method is none, which does not"),
    (
        {"weights": replace(NO_WEIGHTS, realisation="resampling")},
        "weights.realisation is resampling and weights.method is none, which does not read it",
    ),
]


@pytest.mark.parametrize(("settings", "sentence"), WITHOUT_EFFECT, ids=[words[:30] for _, words in WITHOUT_EFFECT])
def test_a_setting_without_effect_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        check_config(RunConfig(**{"data": DATA} | settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"data": replace(DATA, eval_path="held_out.jsonl")},
        {"data": replace(DATA, eval_path="held_out.jsonl", eval_fraction=0.0)},
        {"data": replace(DATA, eval_fraction=0.1)},
        {"optim": CONSTANT},
        {"optim": OptimConfig(schedule="linear", min_lr_fraction=0.1)},
        {"rewards": NO_CALIBRATION},
        {"rewards": RewardConfig(max_reward=3.0, calibration_strength=0.0, residual=0.1)},
        {"rewards": RewardConfig(residual=None), "clusters": ONE_CLUSTER},
        {"clusters": ONE_CLUSTER},
        {"clusters": MIXTURE},
        {"weights": NO_WEIGHTS},
        {"weights": WeightConfig(min_ess=0.0, force=True, realisation="resampling")},
    ],
    ids=str,
)
def test_the_same_settings_where_they_have_one_pass(settings: dict[str, Any]) -> None:
    check_config(RunConfig(**{"data": DATA} | settings))


def test_a_project_goes_with_a_tracker_that_has_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iwpo_fast.config_checks.training.find_spec", lambda name: name)
    check_config(RunConfig(data=DATA, log=LogConfig(project="mine", trackers=["tensorboard", "trackio"])))
    with pytest.raises(ValueError, match=r"^log\.project is mine"):
        check_config(RunConfig(data=DATA, log=LogConfig(project="mine", trackers=["tensorboard"])))
