"""Distributions over grades: what heads give, what they learn from, that a file keeps them."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from reward_worlds import FIXED, World, make_world
from scipy.special import logit

from iwpo_fast.config import CategoryConfig, ClusterConfig, LoraConfig, RewardConfig, TuningConfig
from iwpo_fast.config_checks import check_reward_settings
from iwpo_fast.importance.labels import flipped_by_grades
from iwpo_fast.rewards import PairFeatures, RewardScores, fit_clusters, report_lines, score_pairs
from iwpo_fast.rewards import distribution_choice as choice_module
from iwpo_fast.rewards.categories import graded, smoothed
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.distribution_fit import Distributions, Judged, losses
from iwpo_fast.rewards.distribution_heads import DistributionHeads, log_odds, wins
from iwpo_fast.rewards.features import RECIPE
from iwpo_fast.rewards.reward_model import RewardModel

PAIRS = 120
KEYS = [f"{i:032x}" for i in range(PAIRS)]


def votes_of(world: World, annotators: int = 3) -> np.ndarray:
    """[C, J] from 1 to 5, higher for responses that labels prefer."""
    draw = np.random.default_rng(0)
    better = np.zeros(len(world.response_features))
    better[world.table.chosen] = 1
    return np.clip(np.round(2.5 + better[:, None] + draw.normal(0, 0.8, (len(better), annotators))), 1, 5)


def learnt(world: World, grades: np.ndarray, **settings: Any) -> tuple[RewardModel, PairFeatures, RewardScores]:
    features = PairFeatures(world.table, world.prompt_features, world.response_features, None, KEYS)
    clusters = fit_clusters(features.prompt, np.ones(PAIRS, np.int64), ClusterConfig(count=2, min_pairs=8), seed=0)
    config = RewardConfig(**({"likelihood": False, "heads": "dprm", "ensemble": 2} | FIXED | settings))
    scores = score_pairs(features, clusters.assign(features.prompt), config, seed=5, grades=grades)
    assert scores.heads is not None
    record = {"features": RECIPE | {"likelihood": False}, "seed": 5, "max_reward": config.max_reward}
    model = RewardModel(clusters, scores.heads, scores.calibration, frozenset(KEYS), record, scores.report)
    return model, features, scores


@pytest.fixture
def one_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_module, "DECAYS", (1.0,))
    monkeypatch.setattr(choice_module, "MOST_ROUNDS", 1)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(pairs=PAIRS)


def test_a_target_is_the_mean_of_a_dirichlet_distribution_after_its_votes() -> None:
    grades = np.full((30, 3), np.nan)
    grades[:, 0] = np.tile([1.0, 2.0, 4.0], 10)
    grades[0, 1:] = 4.0
    found = graded(grades, CategoryConfig(prior=2.0, smoothing=0.0))
    assert found.values.tolist() == [1, 2, 4] and found.response.tolist() == list(range(30))
    frequency = np.array([10, 10, 12]) / 32
    np.testing.assert_allclose(found.targets[0], (2 * frequency + [1, 0, 2]) / 5)
    np.testing.assert_allclose(found.targets[1], (2 * frequency + [0, 1, 0]) / 3)
    np.testing.assert_allclose(graded(grades, CategoryConfig(prior=0.0, smoothing=0.0)).targets[1], [0, 1, 0])


def test_scores_of_many_values_fall_into_bins_of_one_width_and_ungraded_responses_teach_nothing() -> None:
    grades = np.linspace(0, 12, 61)[:, None]
    grades[7] = np.nan
    found = graded(grades, CategoryConfig(count=6, prior=0.0, smoothing=0.0))
    assert found.values.tolist() == [1, 3, 5, 7, 9, 11]
    assert 7 not in found.response and len(found.response) == 60
    assert found.targets.argmax(axis=1)[[0, -1]].tolist() == [0, 5]
    assert np.array_equal(found.targets.sum(axis=1), np.ones(60))


def test_smoothing_moves_mass_to_the_categories_beside_and_nowhere_else() -> None:
    found = smoothed(np.eye(4), 0.2)
    np.testing.assert_allclose(found[0], [0.8, 0.2, 0, 0])
    np.testing.assert_allclose(found[1], [0.1, 0.8, 0.1, 0])
    np.testing.assert_allclose(found[3], [0, 0, 0.2, 0.8])
    np.testing.assert_allclose(smoothed(np.eye(2), 0.2), [[0.8, 0.2], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("grades", "sentence"),
    [
        (np.ones((40, 1)), "all scores are 1, so no response is better than another: give other scores"),
        (np.where(np.arange(40)[:, None] < 5, 2.0, np.nan), "5 responses have scores, too few to learn"),
    ],
)
def test_grades_that_nothing_can_be_learnt_from_are_refused(grades, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        graded(grades, CategoryConfig())


def test_the_probability_of_a_higher_grade_is_the_sum_over_all_two_grades_and_both_sides_make_1() -> None:
    draw = np.random.default_rng(0)
    p, q = draw.dirichlet(np.ones(5), 3), draw.dirichlet(np.ones(5), 3)
    expected = np.zeros(3)
    for i, j in product(range(5), repeat=2):
        expected += p[:, i] * q[:, j] * (1.0 if i > j else 0.5 if i == j else 0.0)
    np.testing.assert_allclose(wins(p, q), expected)
    np.testing.assert_allclose(wins(p, q) + wins(q, p), 1)
    np.testing.assert_allclose(wins(p, p), 0.5)


def test_heads_that_are_sure_give_probabilities_and_finite_log_odds() -> None:
    """Rounded to float32, distributions sum to more than 1, and a sum of products of them to more than 1 as well."""
    first, second = np.array([[2e-9, 1, 1.5e-8], [1.5e-8, 1, 2e-9]], dtype=np.float32)
    lower, higher = np.array([1, 1.5e-8, 2e-9], dtype=np.float32), np.array([2e-9, 1, 1.5e-8], dtype=np.float32)
    win, lose = wins(higher, lower), wins(lower, higher)
    assert float(higher.astype(np.float64).sum() * lower.astype(np.float64).sum()) > 1
    assert win == 1.0 and 0 <= lose < 1e-7 and flipped_by_grades(np.array([win]))[0] == 0
    assert np.isfinite(log_odds(np.array([win, lose, 0.0, 1.0]))).all()
    assert log_odds(np.array([0.25]))[0] == logit(0.25)
    assert log_odds(wins(first, second)) == pytest.approx(0, abs=1e-6)


def test_rewards_and_variances_are_those_of_the_distribution() -> None:
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape).astype(np.float32)

    values, slope = np.array([1.0, 2.0, 5.0]), draw.random((2, 1)) + 0.5
    heads = DistributionHeads(normal(4), abs(normal(4)), normal(4, 4), normal(4, 2, 3), normal(2, 2, 3), values, slope)
    features, cluster = normal(7, 4), np.arange(7) % 2
    ((_, rewards),) = heads.rewards((features,), cluster, np.zeros(7, np.int64))
    assert rewards.shape == (7, 2, 1) and heads.members == 1 and heads.folds == 2
    logits = ((features.astype(np.float64) - heads.mean) * heads.scale) @ heads.projection
    logits = np.einsum("bp,pmd->bmd", logits, heads.vectors) + heads.bias[cluster]
    naive = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    mean = (naive * values).sum(axis=-1)
    variance = (naive * values**2).sum(axis=-1) - mean**2
    np.testing.assert_allclose(rewards[..., 0], mean * slope[:, 0], rtol=1e-4)
    found = heads.variances((features,), cluster)[..., 0]
    np.testing.assert_allclose(found, variance * slope[:, 0] ** 2, rtol=1e-4)


def judged() -> Judged:
    draw = np.random.default_rng(0)
    targets = draw.dirichlet(np.ones(4), 6).astype(np.float32)
    return Judged(
        draw.standard_normal((6, 3)).astype(np.float32), np.arange(6) % 2, targets, np.arange(4.0), np.ones((6, 2))
    )


@pytest.mark.parametrize(
    "settings",
    [CategoryConfig(), CategoryConfig(loss="cross_entropy"), CategoryConfig(cost_exponent=2.0)],
    ids=lambda settings: f"{settings.loss}-{settings.cost_exponent}",
)
def test_a_step_down_the_gradient_makes_every_loss_smaller(settings) -> None:
    given, rows = judged(), np.arange(6)
    start = Distributions.new(given)
    gradients = torch.autograd.grad(losses(start, given, rows, settings).sum(), tuple(start))
    before = losses(start, given, rows, settings).sum().item()
    moved = Distributions(*(part - 1e-2 * slope for part, slope in zip(start, gradients, strict=True)))
    assert losses(moved, given, rows, settings).sum().item() < before


def test_before_its_first_step_a_head_gives_the_mean_of_all_targets() -> None:
    given = judged()
    found = Distributions.new(given).log_probs(torch.from_numpy(given.inputs), torch.from_numpy(given.cluster)).exp()
    expected = torch.from_numpy(given.targets).mean(0).expand(6, 2, -1)
    torch.testing.assert_close(found.detach(), expected)


@pytest.mark.slow
def test_rewards_follow_the_grades_and_doubt_of_graders_is_in_the_spread(world) -> None:
    _, _, scores = learnt(world, votes_of(world))
    assert scores.report["total"]["accuracy"] > 0.6 and scores.win is not None
    gaps = scores.raw.mean(axis=1)[world.table.chosen] - scores.raw.mean(axis=1)[world.table.rejected]
    assert ((scores.win > 0.5) == (gaps > 0)).mean() > 0.9
    said = report_lines(scores.report)
    assert any("distributions over the grades 1, 2, 3, 4, 5, from 240 responses" in line for line in said)
    alone, features, _ = learnt(world, votes_of(world), ensemble=1)
    cluster = alone.clusters.assign(features.prompt)[features.table.prompt_of]
    assert isinstance(alone.heads, DistributionHeads)
    every = alone.heads.variances((features.response,), cluster)[..., 0]
    fold = fold_of_prompts(KEYS, 4, 5)[features.table.prompt_of]
    expected = np.sqrt(every[np.arange(len(every)), fold]) * alone.calibration.slope[cluster]
    np.testing.assert_allclose(alone.score_features(features).spread, expected)


@pytest.mark.slow
def test_no_prompt_is_scored_by_heads_that_saw_its_grades(world, one_choice) -> None:
    grades = votes_of(world)
    before = learnt(world, grades)[2]
    held_out = (fold_of_prompts(KEYS, 4, 5) == 2)[world.table.prompt_of]
    # The same grades among those of the fold, so that the frequencies of all grades stay.
    turned = grades.copy()
    turned[held_out] = grades[held_out][::-1]
    after = learnt(world, turned)[2]
    np.testing.assert_allclose(before.raw[held_out], after.raw[held_out], atol=1e-4)
    assert (np.abs(before.raw - after.raw)[~held_out] > 1e-4).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["transport", "cross_entropy"])
def test_a_folder_gives_the_training_pairs_bitwise_the_scores_of_the_run(world, one_choice, tmp_path, loss) -> None:
    model, features, scores = learnt(world, votes_of(world), categories=CategoryConfig(loss=loss))
    model.save(tmp_path / "model")
    again = RewardModel.load(tmp_path / "model")
    assert isinstance(again.heads, DistributionHeads)
    found = again.score_features(features)
    assert np.array_equal(found.raw, scores.raw) and np.array_equal(found.score, scores.calibrated)
    assert (found.spread > scores.members_calibrated.std(axis=1)).all()
    assert scores.win is not None
    np.testing.assert_allclose(1 / (1 + np.exp(-again.prefer_features(features).mean(axis=1))), scores.win, atol=0.02)
    new = dataclasses.replace(again, training_prompts=frozenset()).score_features(features)
    assert np.isfinite(new.score).all() and not np.array_equal(new.raw, found.raw)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"heads": "dprm", "overlap": 0.1}, "rewards.heads is dprm and rewards.overlap is 0.1, which is for linear"),
        (
            {"heads": "dprm", "tuning": TuningConfig(lora=LoraConfig())},
            "rewards.heads is dprm, which learns from grades, and rewards.tuning is set, which learns from labels",
        ),
        (
            {"categories": CategoryConfig(count=3)},
            "rewards.categories.count is 3 and rewards.heads is auto, which",
        ),
        (
            {"heads": "dprm", "categories": CategoryConfig(count=1)},
            "categories.count is 1: it must be at least 2",
        ),
        (
            {"heads": "dprm", "categories": CategoryConfig(loss="cross_entropy", cost_exponent=2.0)},
            "cost_exponent is 2.0 and rewards.categories.loss is cross_entropy, which moves nothing",
        ),
    ],
    ids=str,
)
def test_settings_that_distributions_do_not_go_with_are_refused(settings, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_reward_settings(RewardConfig(**settings))
