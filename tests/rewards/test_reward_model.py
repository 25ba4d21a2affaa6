"""Which heads score which prompt, and what a folder of a reward model must be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from reward_worlds import FIXED, World, make_world

from iwpo_fast.config import ClusterConfig, RewardConfig
from iwpo_fast.files import load_record, save_record
from iwpo_fast.rewards import PairFeatures, RewardScores, fit_clusters, score_pairs
from iwpo_fast.rewards.clusters import GatedClusters
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.features import RECIPE
from iwpo_fast.rewards.reward_model import RewardModel

PAIRS = 240
KEYS = [f"{i:032x}" for i in range(PAIRS)]


def gated(features: np.ndarray) -> GatedClusters:
    """Gates of four folds and of all pairs, each another one."""
    draw = np.random.default_rng(2)
    weights = draw.standard_normal((5, 3, features.shape[1])).astype(np.float32)
    return GatedClusters(features.mean(axis=0), weights, np.arange(3), draw.standard_normal((5, 3)).astype(np.float32))


def learnt(
    world: World, *, likelihood: bool = False, gates: bool = False, **settings
) -> tuple[RewardModel, PairFeatures, RewardScores]:
    """A reward model of made-up features; its report and its language model play no part."""
    logps = np.random.default_rng(1).normal(-1, 0.3, len(world.response_features)).astype(np.float32)
    features = PairFeatures(world.table, world.prompt_features, world.response_features, logps, KEYS)
    clusters = fit_clusters(features.prompt, np.ones(PAIRS, np.int64), ClusterConfig(count=3, min_pairs=8), seed=0)
    config = RewardConfig(likelihood=likelihood, **({"heads": "linear"} | FIXED | settings))
    clusters = gated(features.prompt) if gates else clusters
    cluster = clusters.assign(features.prompt, fold_of_prompts(KEYS, 4, 5))
    scores = score_pairs(features, cluster, config, seed=5)
    assert scores.heads is not None
    record = {
        "features": RECIPE | {"likelihood": likelihood},
        "seed": 5,
        "max_reward": config.max_reward if config.calibration else None,
    }
    model = RewardModel(clusters, scores.heads, scores.calibration, frozenset(KEYS), record, scores.report)
    return model, features, scores


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(pairs=PAIRS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"likelihood": True},
        {"residual": None},
        {"folds": 1},
        {"ensemble": 1},
        {"calibration": False},
        {"heads": "mlp"},
        {"heads": "mlp", "residual": None, "folds": 1, "likelihood": True},
    ],
    ids=str,
)
def test_training_pairs_get_bitwise_the_scores_that_they_had_when_heads_were_learnt(world, tmp_path, settings) -> None:
    model, features, scores = learnt(world, **settings)
    model.save(tmp_path / "model")
    found = RewardModel.load(tmp_path / "model").score_features(features)
    assert np.array_equal(found.raw, scores.raw)
    assert np.array_equal(found.score, scores.calibrated)
    assert np.array_equal(found.members, scores.members_calibrated)
    members = scores.members_calibrated
    expected = members.std(axis=1) if members.shape[1] > 1 else np.full(len(members), np.nan)
    assert np.array_equal(found.spread, expected, equal_nan=True)
    assert np.array_equal(found.cluster, model.clusters.assign(features.prompt)[features.table.prompt_of])


@pytest.mark.parametrize("folds", [4, 1])
def test_gates_of_the_fold_assign_training_prompts_and_the_gate_of_all_pairs_others(world, tmp_path, folds) -> None:
    model, features, scores = learnt(world, gates=True, folds=folds)
    model.save(tmp_path / "model")
    loaded = RewardModel.load(tmp_path / "model")
    assert np.array_equal(loaded.score_features(features).raw, scores.raw)
    new = dataclasses.replace(loaded, training_prompts=frozenset(KEYS[:100])).score_features(features)
    of_prompt, seen = features.table.prompt_of, features.table.prompt_of < 100
    by_fold = model.clusters.assign(features.prompt, fold_of_prompts(KEYS, 4, 5))[of_prompt]
    by_all = model.clusters.assign(features.prompt)[of_prompt]
    assert (by_fold != by_all).mean() > 0.3
    assert np.array_equal(new.cluster, np.where(seen, by_fold, by_all))


def test_new_prompts_are_scored_by_all_folds_with_the_spread_of_one(world) -> None:
    model, features, scores = learnt(world)
    new = dataclasses.replace(model, training_prompts=frozenset(KEYS[:100]))
    found = new.score_features(features)
    seen = features.table.prompt_of < 100
    assert np.array_equal(found.raw[seen], scores.raw[seen])
    heads, cluster = model.heads, found.cluster
    inputs = (features.response.astype(np.float64) - heads.mean) * heads.scale
    every = np.einsum("cd,cdfm->cfm", inputs, heads.vectors[cluster].astype(np.float64)) * heads.slope
    np.testing.assert_allclose(found.raw[~seen].mean(axis=1), every[~seen].mean(axis=(1, 2)), atol=1e-5)
    of_fold = every[np.arange(len(every)), fold_of_prompts(KEYS, 4, 5)[features.table.prompt_of]]
    np.testing.assert_allclose(found.raw[~seen].std(axis=1), of_fold[~seen].std(axis=1), atol=1e-5)
    assert np.abs(found.raw[~seen] - scores.raw[~seen]).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["linear", "mlp"])
def test_the_heads_of_each_fold_score_by_the_tuned_features_that_are_its_own(world, heads) -> None:
    model, features, scores = learnt(world, heads=heads, folds=3)
    tuned = dataclasses.replace(model, record=model.record | {"adapters": [{}] * 3})
    as_frozen = dataclasses.replace(features, tuned=[features.response] * 3)
    assert np.array_equal(tuned.score_features(as_frozen).raw, scores.raw)
    moved = [features.response + np.float32(step) for step in (0.1, 0.2, 0.3)]
    found = tuned.score_features(dataclasses.replace(features, tuned=moved))
    fold = fold_of_prompts(KEYS, 3, 5)[features.table.prompt_of]
    for number, response in enumerate(moved):
        own = model.score_features(dataclasses.replace(features, response=response))
        assert np.array_equal(found.raw[fold == number], own.raw[fold == number])
    assert np.array_equal(found.cluster, model.score_features(features).cluster)
    assert np.abs(found.raw - scores.raw).max() > 0.01


def test_a_folder_gives_back_what_was_saved_and_the_same_bytes(world, tmp_path) -> None:
    model, *_ = learnt(world)
    model.save(tmp_path / "a")
    again = RewardModel.load(tmp_path / "a")
    for name, values in model.heads.arrays().items():
        assert np.array_equal(again.heads.arrays()[name], values)
    assert all(map(np.array_equal, again.calibration, model.calibration))
    assert again.training_prompts == model.training_prompts
    assert again.report == json.loads(json.dumps(model.report))
    model.save(tmp_path / "b")
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }


def test_reliability_is_near_0_where_rewards_say_nothing_and_near_1_where_they_do() -> None:
    for labels, low, high in (("noisy", 0.9, 1.0), ("random", 0.0, 0.6)):
        _, _, scores = learnt(make_world(pairs=PAIRS, labels=labels))
        assert scores.reliability.shape == scores.trust.shape
        assert ((scores.reliability >= low) & (scores.reliability < high)).all()


def change(folder: Path, **values) -> None:
    path = folder / "reward_model.json"
    save_record(path, load_record(path) | values)


def cut_arrays(folder: Path) -> None:
    path = folder / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


DAMAGES = {
    "absent": (lambda f: (f / "reward_model.json").unlink(), "holds no reward model: give the folder"),
    "arrays cut": (cut_arrays, "is damaged: copy it again"),
    "no arrays": (lambda f: (f / "arrays.safetensors").unlink(), "is damaged: copy it again"),
    "no report": (lambda f: (f / "report.json").unlink(), "is damaged: copy it again"),
    "no JSON": (lambda f: (f / "reward_model.json").write_text("{"), "is damaged: copy it again"),
    "no object": (lambda f: (f / "reward_model.json").write_text("[]"), "is damaged: copy it again"),
    "format": (lambda f: change(f, format=4), "has the format 4, and this version reads 1 to 3: make it again"),
    "heads": (lambda f: change(f, heads="forest"), "is damaged: copy it again"),
    "recipe": (
        lambda f: change(f, features=RECIPE | {"format": "features 2", "likelihood": True}),
        r"features of another recipe \(format: features 2\) than this version of iwpo-fast makes \(features 3\)",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES)
def test_a_folder_that_cannot_be_read_is_one_sentence_that_names_it(world, tmp_path, damage, sentence) -> None:
    learnt(world)[0].save(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(ValueError, match=sentence) as refused:
        RewardModel.load(tmp_path / "model")
    assert str(tmp_path / "model") in str(refused.value)


def test_features_of_another_width_or_with_nan_are_refused(world) -> None:
    model, features, _ = learnt(world)
    narrow = dataclasses.replace(features, prompt=features.prompt[:, :-1], response=features.response[:, :-1])
    with pytest.raises(ValueError, match="learnt from hidden states of size 24, and these have 23"):
        model.score_features(narrow)
    damaged = features.response.copy()
    damaged[7, 3] = np.nan
    with pytest.raises(ValueError, match="Some features are NaN or infinite"):
        model.score_features(dataclasses.replace(features, response=damaged))
