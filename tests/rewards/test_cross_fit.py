from __future__ import annotations

import numpy as np
from reward_worlds import FIXED, World, make_world, score

from iwpo_fast.rewards import PairTable
from iwpo_fast.rewards.cross_fit import fold_of_prompts


def test_clusters_that_differ_earn_residuals_and_those_that_do_not_have_none() -> None:
    assert score(make_world(residual=2.0)).report["penalties"]["residual"] is not None
    assert score(make_world(residual=0.0)).report["penalties"]["residual"] is None


def test_no_prompt_is_scored_by_a_model_that_saw_its_labels() -> None:
    world = make_world(pairs=200)
    before = score(world, **FIXED)
    fold = fold_of_prompts(range(200), 4, seed=0)
    swapped = fold[world.table.prompt] == 2
    table = PairTable(
        world.table.prompt,
        np.where(swapped, world.table.rejected, world.table.chosen),
        np.where(swapped, world.table.chosen, world.table.rejected),
        world.table.prompt_of,
    )
    after = score(World(world.prompt_features, world.response_features, table, world.cluster), **FIXED)
    held_out = fold[table.prompt_of] == 2
    assert (before.raw[held_out] == after.raw[held_out]).all()
    assert (before.raw[~held_out] != after.raw[~held_out]).all(axis=1).mean() > 0.95


def test_features_that_memorise_prompts_look_good_in_sample_and_are_found_out_by_cross_fitting() -> None:
    world = make_world(pairs=300, labels="random")
    memory = np.random.default_rng(1).standard_normal((600, 700)).astype(np.float32)
    world = World(world.prompt_features, memory, world.table, world.cluster)
    assert score(world, folds=1, ensemble=1, **FIXED).report["total"]["accuracy"] > 0.95
    crossed = score(world, ensemble=1, **FIXED)
    assert abs(crossed.report["total"]["accuracy"] - 0.5) < 0.1
    assert (crossed.trust < 0.1).all()


def test_prompts_with_one_key_share_a_fold() -> None:
    keys = ["a", "b", "a", b"b", 7, "7"]
    folds = fold_of_prompts(keys, 1000, seed=1)
    assert folds[0] == folds[2]
    assert folds[1] == folds[3]
    assert folds[4] == folds[5]
    assert len(set(folds.tolist())) == 3
    assert (fold_of_prompts(keys[:2], 1000, seed=1) == folds[:2]).all()
    counts = np.bincount(fold_of_prompts(range(4000), 4, seed=0))
    assert counts.min() > 900


def test_duplicates_of_a_prompt_are_not_learnt_from() -> None:
    world = make_world(pairs=100)
    twice = World(
        np.tile(world.prompt_features, (2, 1)),
        np.tile(world.response_features, (2, 1)),
        PairTable(
            np.arange(200),
            np.concatenate([world.table.chosen, world.table.chosen + 200]),
            np.concatenate([world.table.rejected, world.table.rejected + 200]),
            np.arange(200).repeat(2),
        ),
        np.tile(world.cluster, 2),
    )
    keys = list(range(100)) * 2
    fold = fold_of_prompts(keys, 4, seed=0)
    assert (fold[:100] == fold[100:]).all()
    scores = score(twice, prompt_keys=keys, ensemble=1, **FIXED)
    np.testing.assert_allclose(scores.raw[:200], scores.raw[200:], atol=1e-5)
