"""What pessimism takes off rewards, against explicit inverses, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reward_worlds import FIXED, World, make_world, score

from iwpo_fast.config import ClusterConfig, LoraConfig, PessimismConfig, RewardConfig, TuningConfig
from iwpo_fast.config_checks import check_reward_settings
from iwpo_fast.later_settings import without_later
from iwpo_fast.rewards import PairFeatures, PairTable, RewardScores, fit_clusters, report_lines, score_pairs
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.features import RECIPE
from iwpo_fast.rewards.heads import TrainingPairs
from iwpo_fast.rewards.reward_model import RewardModel
from iwpo_fast.rewards.uncertainty import Uncertainty

PAIRS = 240
KEYS = [f"{i:032x}" for i in range(PAIRS)]


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(pairs=PAIRS)


@pytest.fixture(scope="module")
def plain(world) -> RewardScores:
    return score(world, **FIXED)


def naive_bonus(
    world: World, mean: np.ndarray, scale: np.ndarray, fold: np.ndarray, of: int, ridge: float | None
) -> np.ndarray:
    """b [C] by the pairs outside of a fold (all if -1), with an explicit inverse in float64."""
    features = (world.response_features.astype(np.float64) - mean) * scale
    seen = fold[world.table.prompt] != of
    chosen, rejected = world.table.chosen[seen], world.table.rejected[seen]
    apart = features[chosen] - features[rejected]
    if ridge is None:
        ridge = 8 * len(chosen) * FIXED["ridge"]
    inverse = np.linalg.inv(apart.T @ apart + ridge * np.eye(features.shape[1]))
    found = np.empty(len(features))
    for i, own in enumerate(world.cluster[world.table.prompt_of]):
        inside = world.cluster[world.table.prompt[seen]] == own
        centre = np.concatenate([features[chosen[inside]], features[rejected[inside]]]).mean(axis=0)
        found[i] = np.sqrt((features[i] - centre) @ inverse @ (features[i] - centre))
    return found


@pytest.mark.parametrize("ridge", ["auto", 0.5])
@pytest.mark.parametrize("folds", [4, 1])
def test_rewards_are_lowered_by_the_formula_with_the_pairs_that_their_heads_saw(world, folds, ridge) -> None:
    asked = PessimismConfig(scale=3.0, ridge=ridge)
    before, after = score(world, **FIXED, folds=folds), score(world, **FIXED, folds=folds, pessimism=asked)
    fold = fold_of_prompts(range(PAIRS), folds, 0) if folds > 1 else np.zeros(PAIRS, np.int64)
    found = after.pessimism.uncertainty
    given = None if ridge == "auto" else ridge
    parts = range(folds) if folds > 1 else [-1]
    every = np.stack([naive_bonus(world, found.mean, found.scale, fold, f, given) for f in parts])
    bonus = every[fold[world.table.prompt_of], np.arange(2 * PAIRS)]
    np.testing.assert_allclose(after.calibrated, before.calibrated - 3 * bonus, atol=1e-5)
    members = before.members_calibrated - 3 * bonus[:, None]
    np.testing.assert_allclose(after.members_calibrated, members, atol=1e-5)
    assert np.array_equal(after.raw, before.raw) and np.array_equal(after.slope, before.slope)
    new = found.bonus((world.response_features,), world.cluster[world.table.prompt_of], np.full(2 * PAIRS, -1))
    np.testing.assert_allclose(new, every.mean(axis=0), rtol=1e-5)


def test_no_scale_is_no_pessimism_bitwise(world, plain) -> None:
    same = score(world, **FIXED, pessimism=PessimismConfig(scale=0.0))
    for name in ("raw", "calibrated", "members_calibrated", "trust", "slope", "centre", "reliability"):
        assert np.array_equal(getattr(same, name), getattr(plain, name)), name


def test_a_direction_that_was_compared_more_often_costs_less(world) -> None:
    table, prompt = world.table, world.cluster
    asked = RewardConfig(heads="linear", folds=1, **FIXED)

    def bonus(times: int) -> np.ndarray:
        many = PairTable(
            *(np.tile(rows, times) for rows in (table.prompt, table.chosen, table.rejected)), table.prompt_of
        )
        fold = np.zeros(PAIRS, np.int64)
        pairs = TrainingPairs.read((world.response_features,), many, prompt, fold, asked, seed=0)
        cluster = prompt[table.prompt_of]
        return Uncertainty.fit(pairs, 1e-3, 1.0).bonus(
            (world.response_features,), cluster, np.zeros(2 * PAIRS, np.int64)
        )

    once, twice, often = bonus(1), bonus(2), bonus(8)
    assert (twice < once).all() and (often < twice).all()
    assert np.allclose(often / once, 8**-0.5, atol=0.08)  # λ is small beside the squares


def test_what_is_like_no_training_pair_costs_more(world, plain) -> None:
    found = score(world, **FIXED, pessimism=PessimismConfig()).pessimism.uncertainty
    cluster, fold = world.cluster[world.table.prompt_of], np.full(2 * PAIRS, -1)
    near = found.bonus((world.response_features,), cluster, fold)
    far = found.bonus((10 * world.response_features,), cluster, fold)
    assert (far > 3 * near).mean() > 0.99


def test_the_minimum_is_the_least_member_and_not_above_the_mean(world, plain) -> None:
    least = score(world, **FIXED, pessimism=PessimismConfig(form="minimum"))
    assert np.array_equal(least.calibrated, plain.members_calibrated.min(axis=1))
    assert (least.calibrated <= plain.members_calibrated.mean(axis=1)).all()
    np.testing.assert_allclose(least.members_calibrated.mean(axis=1), least.calibrated, atol=1e-12)
    np.testing.assert_allclose(least.members_calibrated.std(axis=1), plain.members_calibrated.std(axis=1), atol=1e-12)


def learnt(world: World, **settings: Any) -> tuple[RewardModel, PairFeatures, RewardScores]:
    features = PairFeatures(world.table, world.prompt_features, world.response_features, None, KEYS)
    clusters = fit_clusters(features.prompt, np.ones(PAIRS, np.int64), ClusterConfig(count=3, min_pairs=8), seed=0)
    config = RewardConfig(likelihood=False, **({"heads": "linear"} | FIXED | settings))
    scores = score_pairs(features, clusters.assign(features.prompt), config, seed=5)
    record = {"features": RECIPE | {"likelihood": False}, "seed": 5, "max_reward": config.max_reward}
    model = RewardModel(
        clusters, scores.heads, scores.calibration, frozenset(KEYS), record, scores.report, scores.pessimism
    )
    return model, features, scores


@pytest.mark.parametrize("form", ["bonus", "minimum"])
@pytest.mark.parametrize("settings", [{}, {"folds": 1}, {"residual": None}], ids=str)
def test_a_folder_gives_training_pairs_bitwise_the_lowered_scores(world, tmp_path, form, settings) -> None:
    model, features, scores = learnt(world, pessimism=PessimismConfig(form=form), **settings)
    model.save(tmp_path / "a")
    again = RewardModel.load(tmp_path / "a")
    found = again.score_features(features)
    assert np.array_equal(found.score, scores.calibrated) and np.array_equal(found.members, scores.members_calibrated)
    model.save(tmp_path / "b")
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }
    without, *_ = learnt(world, **settings)
    assert np.array_equal(found.spread, without.score_features(features).spread)


@pytest.mark.slow
def test_networks_have_the_bonus_of_the_features_that_they_read(world) -> None:
    linear = score(world, **FIXED, pessimism=PessimismConfig())
    mlp = score(world, **(FIXED | {"heads": "mlp"}), pessimism=PessimismConfig())
    assert np.array_equal(linear.pessimism.uncertainty.root, mlp.pessimism.uncertainty.root)


def test_only_a_folder_with_pessimism_has_another_format(world, tmp_path) -> None:
    formats = {}
    for name, pessimism in {"old": None, "new": PessimismConfig()}.items():
        model, *_ = learnt(world, pessimism=pessimism)
        model.save(tmp_path / name)
        formats[name] = json.loads(Path(tmp_path / name / "reward_model.json").read_text())
    assert formats["old"]["format"] == 1 and "pessimism" not in formats["old"]
    assert formats["new"]["format"] == 2


def test_records_of_before_pessimism_stay_as_they_were() -> None:
    assert "pessimism" not in without_later({"rewards": dataclasses.asdict(RewardConfig())})["rewards"]


def test_the_report_says_what_was_taken_off(world, plain) -> None:
    scores = score(world, **FIXED, pessimism=PessimismConfig())
    found = scores.report["pessimism"]
    taken = plain.calibrated - scores.calibrated
    assert found["mean"] == taken.mean() and found["most"] == taken.max()
    assert any(
        line.startswith(f"pessimism (bonus) takes {taken.mean():.2f} off") for line in report_lines(scores.report)
    )


REFUSED = {
    "columns": ({"source": "columns"}, "rewards.source is columns, which learns no heads on features: leave"),
    "model": ({"source": "model", "model": "m"}, "rewards.source is model, which learns no heads on features: leave"),
    "another run": ({"source": "iwpo", "model": "m"}, "rewards.source is iwpo, which learns no heads on features"),
    "negative": ({"pessimism": PessimismConfig(scale=-1.0)}, "rewards.pessimism.scale is -1.0"),
    "no ridge": ({"pessimism": PessimismConfig(ridge=0.0)}, "rewards.pessimism.ridge is 0.0"),
    "one member": (
        {"pessimism": PessimismConfig(form="minimum"), "ensemble": 1},
        "rewards.ensemble is 1, which has no other members: raise rewards.ensemble",
    ),
    "scale of a minimum": (
        {"pessimism": PessimismConfig(form="minimum", scale=1.0)},
        "rewards.pessimism.scale is 1.0 and rewards.pessimism.form is minimum: leave",
    ),
    "tuning": (
        {"tuning": TuningConfig(lora=LoraConfig()), "heads": "linear"},
        "rewards.tuning is set, which moves the features that the bonus reads",
    ),
}


@pytest.mark.parametrize(("settings", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_pessimistic_is_refused(settings, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_reward_settings(RewardConfig(**({"pessimism": PessimismConfig()} | settings)))
