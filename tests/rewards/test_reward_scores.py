from __future__ import annotations

import numpy as np
import pytest
from reward_worlds import FIXED, World, make_world, score

from iwpo_fast.config import RewardConfig
from iwpo_fast.rewards import PairFeatures, PairTable, RewardScores, score_pairs, scores_from_columns


def gaps(scores: RewardScores, table: PairTable) -> np.ndarray:
    return scores.calibrated[table.chosen] - scores.calibrated[table.rejected]


@pytest.mark.slow
def test_informative_features_give_calibrated_rewards() -> None:
    world = make_world()
    scores = score(world)
    total = scores.report["total"]
    assert total["accuracy"] > 0.75
    assert total["calibration_error"] < 0.06
    assert (scores.trust > 0.4).all()
    assert scores.raw.shape == scores.members_calibrated.shape == (2400, 4)
    unclipped = np.abs(scores.members_calibrated).max(axis=1) < 5
    np.testing.assert_allclose(scores.members_calibrated.mean(axis=1)[unclipped], scores.calibrated[unclipped])


@pytest.mark.slow
def test_log_probs_that_tell_the_better_response_raise_the_accuracy_beside_many_other_features() -> None:
    world = make_world(residual=0.0)
    noise = np.random.default_rng(1).normal(size=(len(world.response_features), 60)).astype(np.float32)
    only_noise = World(world.prompt_features, noise, world.table, world.cluster)
    truth = score(world, folds=1, ensemble=1).raw[:, 0]
    logps = -2 + 0.1 * truth
    assert score(only_noise).report["total"]["accuracy"] < 0.55
    with_logps = score(only_noise, mean_logps=logps)
    assert with_logps.report["total"]["accuracy"] > score(only_noise).report["total"]["accuracy"] + 0.05
    ignored = score(only_noise, mean_logps=logps, likelihood=False)
    assert (ignored.raw == score(only_noise).raw).all()


@pytest.mark.slow
def test_residuals_raise_the_accuracy_where_clusters_differ() -> None:
    world = make_world(residual=2.0)
    assert score(world).report["total"]["accuracy"] > score(world, residual=None).report["total"]["accuracy"] + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["random", "flipped"])
def test_labels_without_a_pattern_earn_no_trust(labels) -> None:
    world = make_world(labels=labels)
    if labels == "flipped":
        # Heads learn any pattern; only scores that were made before can be against the labels.
        before = score(make_world())
        scores = scores_from_columns(
            before.raw[world.table.chosen], before.raw[world.table.rejected], world.table, world.cluster, RewardConfig()
        )
        assert (scores.trust == 0).all()
        assert (scores.calibrated == 0).all()
    else:
        trust = np.stack([score(make_world(labels=labels, seed=seed)).trust for seed in range(5)])
        assert trust.mean() < 0.1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_scores_and_another_does_not() -> None:
    world = make_world(pairs=300)
    assert (score(world, seed=4).raw == score(world, seed=4).raw).all()
    assert (score(world, seed=4).raw != score(world, seed=5).raw).any()


def test_responses_in_no_pair_are_scored_like_their_copies_in_pairs() -> None:
    world = make_world(pairs=300)
    table = world.table
    features = np.concatenate([world.response_features, world.response_features[table.chosen]])
    longer = PairTable(table.prompt, table.chosen, table.rejected, np.concatenate([table.prompt_of, table.prompt]))
    scores = score(World(world.prompt_features, features, longer, world.cluster), **FIXED)
    np.testing.assert_allclose(scores.raw[600:], scores.raw[table.chosen], atol=1e-5)


@pytest.mark.slow
def test_all_pairs_among_four_candidates_can_be_scored() -> None:
    draw = np.random.default_rng(0)
    features = draw.standard_normal((800, 10)).astype(np.float32)
    reward = features @ draw.standard_normal(10)
    first, second = np.triu_indices(4, 1)
    left, right = ((4 * np.arange(200)[:, None] + place).ravel() for place in (first, second))
    better = reward[left] > reward[right]
    prompt_of = np.arange(200).repeat(4)
    table = PairTable(prompt_of[left], np.where(better, left, right), np.where(better, right, left), prompt_of)
    of_pairs = PairFeatures(table, np.zeros((200, 1), dtype=np.float32), features)
    scores = score_pairs(of_pairs, np.zeros(200, dtype=np.int64), RewardConfig(), seed=0)
    assert len(table) == 1200
    assert scores.report["total"]["accuracy"] > 0.9
    assert scores.calibrated.shape == (800,)


def test_half_precision_on_disk_gives_nearly_the_scores_of_single_precision(tmp_path) -> None:
    world = make_world(pairs=300)
    np.save(tmp_path / "features.npy", world.response_features.astype(np.float16))
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    before = score(world, **FIXED)
    after = score(World(world.prompt_features, features, world.table, world.cluster), **FIXED)
    assert np.abs(after.calibrated - before.calibrated).max() < 0.02


def test_without_calibration_rewards_are_raw_and_trusted() -> None:
    scores = score(make_world(pairs=300), calibration=False, **FIXED)
    np.testing.assert_array_equal(scores.calibrated, scores.raw.mean(axis=1))
    assert (scores.trust == 1).all()


def test_scores_of_elsewhere_are_calibrated_on_any_scale() -> None:
    world = make_world()
    table, own = world.table, score(world)
    scale = np.array([1.0, 20.0, 1e-3])
    place = world.cluster[table.prompt_of]
    moved = (own.raw.mean(axis=1)) * scale[place] + np.array([0.0, 300.0, -7.0])[place]
    plain, scaled = (
        scores_from_columns(s[table.chosen], s[table.rejected], table, world.cluster, RewardConfig())
        for s in (own.raw.mean(axis=1), moved)
    )
    np.testing.assert_allclose(scaled.calibrated, plain.calibrated, atol=1e-6)
    np.testing.assert_allclose(scaled.trust, plain.trust)
    assert scaled.report["total"]["overlap_after"] < scaled.report["total"]["overlap_before"] - 0.05
    assert np.corrcoef(gaps(plain, table), gaps(own, table))[0, 1] > 0.99


def test_members_that_agree_on_other_scales_and_levels_have_no_noise_and_count_the_same() -> None:
    world, draw = make_world(pairs=400), np.random.default_rng(2)
    first, second = draw.standard_normal((2, 800, 1))
    table = world.table

    def calibrated(members: np.ndarray, **settings) -> np.ndarray:
        given = members[table.chosen], members[table.rejected]
        return scores_from_columns(*given, table, world.cluster, RewardConfig(**settings)).members_calibrated

    agreeing = calibrated(np.hstack([first, 10 * first + 300]))
    np.testing.assert_allclose(agreeing[:, 0], agreeing[:, 1], atol=1e-9)
    members = np.hstack([first, second])
    np.testing.assert_allclose(calibrated(members * [1e-3, 50.0] + [7.0, -90.0]), calibrated(members), atol=1e-6)
    as_given = members * [1.0, 10.0]
    np.testing.assert_array_equal(calibrated(as_given, calibration=False), as_given)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (np.array([1.0, np.nan]), r"^1 scores are NaN or infinite, the first in pair 1 \(from 0\)"),
        (np.array([1.0]), "do not fit 2 pairs"),
        (np.array([1.0, 2.0]), r"^Response 0 has different scores in different pairs: give it one in pairs 0 and 1 "),
    ],
)
def test_scores_that_cannot_be_are_refused(chosen, message) -> None:
    table = PairTable(*(np.array(rows, dtype=np.int64) for rows in ([0, 0], [0, 0], [1, 2], [0, 0, 0])))
    with pytest.raises(ValueError, match=message):
        scores_from_columns(chosen, np.zeros(len(chosen)), table, np.zeros(1, dtype=np.int64), RewardConfig())


def test_a_response_without_a_score_is_refused() -> None:
    table = PairTable(*(np.array(rows, dtype=np.int64) for rows in ([0], [0], [1], [0, 0, 0])))
    with pytest.raises(ValueError, match="Response 2 has no score"):
        scores_from_columns(np.ones(1), np.zeros(1), table, np.zeros(1, dtype=np.int64), RewardConfig())
