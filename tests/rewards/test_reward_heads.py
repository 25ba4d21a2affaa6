from __future__ import annotations

import numpy as np
import pytest
from reward_worlds import make_world
from scipy.optimize import minimize

from iwpo_fast.config import RewardConfig
from iwpo_fast.rewards import heads as module
from iwpo_fast.rewards.heads import PARTNERS, TrainingPairs, partners

WORLD = make_world(pairs=300, features=6, clusters=3)
SMALL = make_world(pairs=60, features=3, clusters=3)


def training_pairs(world=WORLD, **settings) -> TrainingPairs:
    folds = np.arange(len(world.table)) % 4
    return TrainingPairs.read(
        (world.response_features,), world.table, world.cluster, folds, RewardConfig(**settings), seed=0
    )


def written_out_loss(theta, features, weights, ridge, residual, centring, overlap) -> float:
    """The loss of DESIGN 3.3 by its definition, one head, float64, over all i ≠ j of a cluster."""
    table, cluster = SMALL.table, SMALL.cluster
    theta = theta.reshape(4, -1)
    reward = ((theta[0] + theta[1:][cluster[table.prompt_of]]) * features).sum(axis=1)
    chosen, rejected = reward[table.chosen], reward[table.rejected]
    weights = weights / weights.sum()
    loss = weights @ np.logaddexp(0, rejected - chosen) + centring * weights @ (chosen + rejected) ** 2
    loss += ridge * (theta[0] ** 2).sum() + residual * (theta[1:] ** 2).sum()
    across = weights[:, None] * weights * (cluster[:, None] == cluster) * (1 - np.eye(len(cluster)))
    return loss + overlap * (across * np.logaddexp(0, rejected - chosen[:, None])).sum() / across.sum()


@pytest.mark.slow
@pytest.mark.parametrize(("centring", "overlap"), [(0.01, 0.0), (0.0, 0.0), (0.3, 0.0), (0.01, 0.7)])
def test_heads_minimise_the_loss_as_it_is_defined(centring, overlap, monkeypatch) -> None:
    monkeypatch.setattr("iwpo_fast.rewards.heads.PARTNERS", 10**6)
    monkeypatch.setattr(module, "TOLERANCE", 1e-5)
    pairs = training_pairs(SMALL, centring=centring, overlap=overlap)
    weights = np.random.default_rng(1).integers(0, 3, size=(60, 2)).astype(np.float64)
    ridge, residual = np.array([1e-2, 1e-3]), np.array([3e-2, 1e-2])
    vectors, _ = pairs.fit(weights, ridge, residual)
    features = ((SMALL.response_features - pairs.mean) * pairs.scale).astype(np.float64)
    for head in range(2):
        settings = (features, weights[:, head], ridge[head], residual[head], centring, overlap)
        best = minimize(written_out_loss, np.zeros(12), args=settings, method="BFGS")
        theta = best.x.reshape(4, -1)
        np.testing.assert_allclose(vectors[..., head], theta[0] + theta[1:], atol=2e-3 * np.abs(theta).max())


def test_the_tolerance_is_as_good_as_the_minimum(monkeypatch) -> None:
    pairs = training_pairs()
    one = np.ones((300, 1)), np.array([1e-3]), np.array([1e-2])
    reached = pairs.compared @ pairs.fit(*one)[1]
    monkeypatch.setattr(module, "TOLERANCE", 1e-6)
    best = pairs.compared @ pairs.fit(*one)[1]
    assert np.abs(reached - best).max() < 0.01 * best.std()


def test_a_head_does_not_depend_on_those_fitted_beside_it() -> None:
    pairs = training_pairs()
    weights = np.random.default_rng(1).integers(0, 3, size=(300, 4)).astype(np.float64)
    penalties = np.full(4, 1e-3), np.full(4, 1e-2)
    before = pairs.fit(weights, *penalties)[0]
    weights[:, 3] = weights[::-1, 3] * (np.arange(300) % 2)
    after = pairs.fit(weights, *penalties)[0]
    assert (before[..., :3] == after[..., :3]).all()
    assert (before[..., 3] != after[..., 3]).any()


def test_a_strong_penalty_on_residuals_leaves_the_shared_vector() -> None:
    pairs = training_pairs()
    one = np.ones((300, 1)), np.array([1e-3])
    np.testing.assert_allclose(
        pairs.fit(*one, np.array([1e5]))[0], np.repeat(pairs.fit(*one, None)[0], 3, axis=0), atol=2e-2
    )


def test_residuals_start_at_zero_and_serve_their_cluster_only() -> None:
    pairs = training_pairs()
    weights = (WORLD.cluster == 1).astype(np.float64)[:, None]
    vectors = pairs.fit(weights, np.array([1e-2]), np.array([1e-2]))[0][..., 0]
    assert (vectors[0] == vectors[2]).all()
    assert (vectors[0] != vectors[1]).all()


def test_a_feature_that_never_changes_does_no_harm() -> None:
    world = make_world(pairs=300, features=6)
    constant = np.concatenate([world.response_features, np.full((600, 1), 7, dtype=np.float32)], axis=1)
    fit = np.ones((300, 1)), np.array([1e-3]), None
    table, cluster, folds = world.table, world.cluster, np.arange(300) % 4
    padded = TrainingPairs.read((constant,), table, cluster, folds, RewardConfig(), seed=0).fit(*fit)
    np.testing.assert_allclose(padded[1], training_pairs(world).fit(*fit)[1], atol=1e-5)


def test_partners_are_all_others_of_a_small_cluster() -> None:
    cluster = np.array([0, 1, 0, 1, 0, 2])
    first, second, stands_for = partners(cluster, seed=0)
    expected = {(i, j) for i in range(6) for j in range(6) if i != j and cluster[i] == cluster[j]}
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == sorted(expected)
    assert (stands_for == 1).all()


def test_partners_in_a_large_cluster_are_some_others_and_stand_for_all() -> None:
    cluster = np.repeat([0, 1], [500, 20])
    first, second, stands_for = partners(cluster, seed=0)
    assert (first != second).all()
    assert (cluster[first] == cluster[second]).all()
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == len(first)
    assert (np.bincount(second)[:500] == PARTNERS).all()
    assert stands_for.sum() == pytest.approx(500 * 499 + 20 * 19)
    assert (partners(cluster, seed=0)[1] == second).all()
    assert (partners(cluster, seed=1)[1] != second).any()


def test_the_overlap_term_with_some_partners_is_near_that_with_all(monkeypatch) -> None:
    one = np.ones((300, 1)), np.array([1e-3]), None
    some = training_pairs(overlap=1.0).fit(*one)[1]
    monkeypatch.setattr("iwpo_fast.rewards.heads.PARTNERS", 10**6)
    every = training_pairs(overlap=1.0).fit(*one)[1]
    assert np.corrcoef(some[:, 0], every[:, 0])[0, 1] > 0.99
