"""Preference embeddings: what their scores are, that a file keeps them, and what they may see."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from reward_worlds import FIXED, World, make_world, score
from scipy.special import softmax

from iwpo_fast.config import ClusterConfig, RewardConfig
from iwpo_fast.config_checks import check_reward_settings
from iwpo_fast.rewards import PairFeatures, PairTable, fit_clusters, report_lines, score_pairs
from iwpo_fast.rewards import preference_choice as choice_module
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.features import RECIPE
from iwpo_fast.rewards.linear_heads import LinearHeads
from iwpo_fast.rewards.preference_fit import Compared, Embeddings, total_loss
from iwpo_fast.rewards.preference_heads import PreferenceHeads
from iwpo_fast.rewards.reward_model import RewardModel


def naive_scores(heads: PreferenceHeads, features: np.ndarray, cluster: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """s(i > j) as v_iᵀ D R D v_j with matrices, float64 [C, C, folds, members]; 0 across prompts."""
    linear, planes = heads.linear, heads.gate.shape[-1]
    inputs = (features.astype(np.float64) - linear.mean) * linear.scale
    turn = np.kron(np.eye(planes), np.array([[0.0, 1.0], [-1.0, 0.0]]))
    found = np.zeros((len(features), len(features), heads.folds, heads.members))
    for m, (f, e) in enumerate(np.ndindex(heads.folds, heads.members)):

        def embedded(i: int, m: int = m, f: int = f, e: int = e) -> np.ndarray:
            z = cluster[i] if len(linear.vectors) > 1 else 0
            reward = inputs[i] @ linear.vectors[z, :, f, e] * linear.slope[f, e]
            v = (inputs[i] @ heads.projection) @ heads.vectors[:, m] + heads.bias[cluster[i], m]
            return v + np.eye(2 * planes)[0] * heads.share[f, e] * reward

        for i, j in np.ndindex(found.shape[:2]):
            if prompt[i] == prompt[j]:
                stretch = np.diag(np.repeat(planes * softmax(heads.gate[cluster[i], m].astype(np.float64)), 2))
                score = embedded(i) @ stretch @ turn @ stretch @ embedded(j)
                found[i, j, f, e] = heads.slope[f, e] * score
    return found


def made_up(responses: int = 9, dimension: int = 4, *, folds: int = 2, members: int = 2, inputs: int = 5) -> tuple:
    """Heads with random numbers, features, clusters of prompts of three responses each, and prompts."""
    draw = np.random.default_rng(0)
    m = folds * members

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape).astype(np.float32)

    linear = LinearHeads(
        normal(inputs), abs(normal(inputs)), normal(2, inputs, folds, members), np.ones((folds, members))
    )
    heads = PreferenceHeads(
        linear,
        normal(inputs, 4),
        normal(4, m, dimension),
        normal(2, m, dimension),
        normal(2, m, dimension // 2),
        normal(folds, members),
        abs(normal(folds, members)).astype(np.float64),
    )
    prompt = np.arange(responses) // 3
    return heads, normal(responses, inputs), prompt % 2, prompt


def rewards_of(heads: PreferenceHeads, features: np.ndarray, cluster: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    found = np.empty((len(features), heads.folds, heads.members))
    for place, rewards in heads.rewards((features,), cluster, prompt):
        found[place] = rewards
    return found


@pytest.mark.parametrize("dimension", [2, 4, 6])
def test_scores_of_pairs_are_those_of_the_formula_with_matrices(dimension) -> None:
    heads, features, cluster, prompt = made_up(dimension=dimension)
    every = naive_scores(heads, features, cluster, prompt)
    first, second = np.nonzero(prompt[:, None] == prompt)
    found = heads.scores((features,), cluster, first, second)
    np.testing.assert_allclose(found, every[first, second], rtol=1e-4, atol=1e-4 * np.abs(every).max())


def test_scores_turn_their_sign_with_the_pair_and_no_response_beats_itself() -> None:
    heads, features, cluster, prompt = made_up()
    first, second = np.nonzero(prompt[:, None] == prompt)
    there, back = (heads.scores((features,), cluster, *pair) for pair in ((first, second), (second, first)))
    assert np.array_equal(there, -back)
    assert (there[first == second] == 0).all() and (there[first != second] != 0).all()


def test_the_reward_of_a_response_is_its_mean_score_and_those_of_a_prompt_sum_to_0() -> None:
    heads, features, cluster, prompt = made_up()
    expected = naive_scores(heads, features, cluster, prompt).sum(axis=1) / 3
    found = rewards_of(heads, features, cluster, prompt)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(found.reshape(3, 3, -1).sum(axis=1), 0, atol=1e-4 * np.abs(expected).max())


def test_rewards_of_two_responses_differ_by_their_score() -> None:
    heads, features, *_ = made_up(responses=6)
    pairs = np.arange(6) // 2
    found = rewards_of(heads, features, pairs % 2, pairs)
    expected = heads.scores((features,), pairs % 2, np.arange(0, 6, 2), np.arange(1, 6, 2))
    np.testing.assert_allclose(found[::2] - found[1::2], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_one_plane_with_a_constant_is_a_bradley_terry_reward() -> None:
    """v = (r, c): s = c (r - r'), and mean scores are c (r - the mean of the prompt)."""
    heads, features, cluster, prompt = made_up(dimension=2)
    vectors, bias = np.zeros_like(heads.vectors), np.zeros_like(heads.bias)
    bias[..., 1] = 1.5
    plain = dataclasses.replace(heads, vectors=vectors, bias=bias, share=np.ones_like(heads.share))
    reward = np.empty((9, 2, 2), np.float32)
    for place, of_block in heads.linear.rewards((features,), cluster, prompt):
        reward[place] = of_block * plain.slope * 1.5
    centred = reward.reshape(3, 3, 2, 2) - reward.reshape(3, 3, 2, 2).mean(axis=1, keepdims=True)
    found = rewards_of(plain, features, cluster, prompt)
    np.testing.assert_allclose(found, centred.reshape(9, 2, 2), rtol=1e-4, atol=1e-4 * np.abs(reward).max())


def compared(pairs: int = 12, heads: int = 2, inputs: int = 3) -> Compared:
    draw = np.random.default_rng(0)
    return Compared(
        draw.standard_normal((2 * pairs, inputs)).astype(np.float32),
        draw.integers(2, size=pairs).repeat(2),
        np.arange(2 * pairs).reshape(-1, 2),
        draw.standard_normal((2 * pairs, heads)).astype(np.float32),
        draw.integers(1, 3, size=(pairs, heads)).astype(np.float64),
    )


def test_before_its_first_step_an_embedding_is_nearly_the_linear_head() -> None:
    given = compared()
    gaps = given.linear[::2] - given.linear[1::2]
    plain = Embeddings.new(3, 2, 2, 4, seed=0)
    np.testing.assert_allclose(plain.all_scores(given), gaps, atol=0.8)
    none = plain._replace(vectors=torch.zeros_like(plain.vectors))
    np.testing.assert_allclose(none.all_scores(given), gaps, atol=1e-6)


def test_training_scores_are_those_of_the_heads_and_follow_the_gradient_of_the_loss() -> None:
    given = compared()
    draw = torch.Generator().manual_seed(1)
    parts = [torch.randn(part.shape, generator=draw) for part in Embeddings.new(3, 2, 2, 4, seed=0)]
    embeddings = Embeddings(*(part.double().requires_grad_() for part in parts))
    doubled = given._replace(inputs=given.inputs.astype(np.float64), linear=given.linear.astype(np.float64))
    rows, weights = torch.arange(12), torch.from_numpy(given.weights)

    def loss(*parts: torch.Tensor) -> torch.Tensor:
        return total_loss(Embeddings(*parts), doubled, rows, weights)

    assert torch.autograd.gradcheck(loss, tuple(embeddings))
    nothing = LinearHeads(
        np.zeros(3, np.float32), np.ones(3, np.float32), np.zeros((1, 3, 1, 2), np.float32), np.ones((1, 2))
    )
    vectors, bias, gate, _ = (part.numpy() for part in parts)
    heads = PreferenceHeads(
        nothing, np.eye(3, dtype=np.float32), vectors, bias, gate, np.ones((1, 2), np.float32), np.ones((1, 2))
    )
    alone = given._replace(linear=np.zeros_like(given.linear))
    found = heads.scores((given.inputs,), given.cluster, given.sides[:, 0], given.sides[:, 1])
    trained = Embeddings(*parts).all_scores(alone)
    np.testing.assert_allclose(found[:, 0], trained, rtol=1e-4, atol=1e-4 * np.abs(trained).max())


@pytest.fixture
def one_choice(monkeypatch) -> None:
    """Of decay and rounds, so that these do not depend on labels."""
    monkeypatch.setattr(choice_module, "DECAYS", (1.0,))
    monkeypatch.setattr(choice_module, "MOST_ROUNDS", 2)


def cyclic_world(prompts: int = 60) -> World:
    """Three kinds of responses, each of which beats the next; all three pairs of a prompt."""
    draw = np.random.default_rng(0)
    kinds = draw.standard_normal((3, 12))
    responses = (np.tile(kinds, (prompts, 1)) + 0.2 * draw.standard_normal((3 * prompts, 12))).astype(np.float32)
    prompt = np.repeat(np.arange(prompts), 3)
    chosen = np.arange(3 * prompts)
    rejected = 3 * prompt + (chosen + 1 - 3 * prompt) % 3
    plain = make_world(pairs=prompts, clusters=1)
    return World(plain.prompt_features, responses, PairTable(prompt, chosen, rejected, prompt), np.zeros(prompts, int))


@pytest.mark.slow
def test_a_cycle_is_learnt_and_the_report_tells_scores_of_pairs_from_rewards(one_choice, monkeypatch) -> None:
    monkeypatch.setattr(choice_module, "MOST_ROUNDS", 6)
    found = score(cyclic_world(), **FIXED, heads="gpm", folds=2, ensemble=1)
    assert isinstance(found.heads, PreferenceHeads)
    assert found.report["penalties"]["preferences"]["pair_accuracy"] == 1
    assert abs(found.report["total"]["accuracy"] - 0.5) < 0.2
    assert any("preference embeddings of 4 dimensions" in line for line in report_lines(found.report))
    linear = score(cyclic_world(), **FIXED, folds=2, ensemble=1)
    assert linear.report["total"]["accuracy"] < 0.67


@pytest.mark.slow
def test_no_prompt_is_scored_by_an_embedding_that_saw_its_labels(one_choice) -> None:
    world = make_world(pairs=200)
    before = score(world, **FIXED, heads="gpm")
    fold = fold_of_prompts(range(200), 4, seed=0)
    table, swapped = world.table, fold[world.table.prompt] == 2
    chosen = np.where(swapped, table.rejected, table.chosen)
    rejected = np.where(swapped, table.chosen, table.rejected)
    turned = dataclasses.replace(table, chosen=chosen, rejected=rejected)
    after = score(dataclasses.replace(world, table=turned), **FIXED, heads="gpm")
    held_out = fold[table.prompt_of] == 2
    np.testing.assert_allclose(before.raw[held_out], after.raw[held_out], atol=1e-4)
    assert (np.abs(before.raw - after.raw)[~held_out] > 1e-3).mean() > 0.9


@pytest.mark.slow
def test_where_there_is_a_reward_embeddings_find_it_as_linear_heads_do() -> None:
    world = make_world(residual=0.0)
    linear, gpm = score(world, **FIXED), score(world, **FIXED, heads="gpm")
    assert gpm.report["total"]["accuracy"] > linear.report["total"]["accuracy"] - 0.02
    assert (gpm.reliability > 0.9).all() and gpm.report["total"]["calibration_error"] < 0.06


KEYS = [f"{i:032x}" for i in range(60)]


@pytest.fixture
def learnt(one_choice) -> tuple[RewardModel, PairFeatures, np.ndarray]:
    world = cyclic_world()
    features = PairFeatures(world.table, world.prompt_features, world.response_features, None, KEYS)
    clusters = fit_clusters(features.prompt, np.ones(60, np.int64), ClusterConfig(count=2, min_pairs=8), seed=0)
    config = RewardConfig(likelihood=False, heads="gpm", ensemble=2, **FIXED)
    scores = score_pairs(features, clusters.assign(features.prompt), config, seed=5)
    assert scores.heads is not None
    record = {"features": RECIPE | {"likelihood": False}, "seed": 5, "max_reward": config.max_reward}
    model = RewardModel(clusters, scores.heads, scores.calibration, frozenset(KEYS), record, scores.report)
    return model, features, scores.raw


def test_a_folder_gives_the_training_pairs_bitwise_the_scores_of_the_run(learnt, tmp_path) -> None:
    model, features, raw = learnt
    model.save(tmp_path / "model")
    again = RewardModel.load(tmp_path / "model")
    assert isinstance(again.heads, PreferenceHeads)
    assert np.array_equal(again.score_features(features).raw, raw)
    assert np.array_equal(again.prefer_features(features), model.prefer_features(features))


def test_preferences_of_seen_prompts_are_those_of_their_fold_and_of_new_ones_the_mean(learnt) -> None:
    model, features, _ = learnt
    model = dataclasses.replace(model, calibration=model.calibration._replace(slope=np.full(2, 2.0)))
    table, cluster = features.table, model.clusters.assign(features.prompt)[features.table.prompt_of]
    every = 2 * model.heads.scores((features.response,), cluster, table.chosen, table.rejected)
    fold = fold_of_prompts(KEYS, 4, 5)[table.prompt]
    assert np.array_equal(model.prefer_features(features), every[np.arange(len(every)), fold])
    new = dataclasses.replace(model, training_prompts=frozenset())
    np.testing.assert_allclose(new.prefer_features(features).mean(axis=1), every.mean(axis=(1, 2)), atol=1e-4)


def test_the_heads_of_each_fold_compare_by_the_tuned_features_that_are_its_own(learnt) -> None:
    model, features, _ = learnt
    tuned = dataclasses.replace(model, record=model.record | {"adapters": [{}] * 4})
    moved = [features.response + np.float32(step) for step in (0.1, 0.2, 0.3, 0.4)]
    given = dataclasses.replace(features, tuned=moved)
    preferred, raw = tuned.prefer_features(given), tuned.score_features(given).raw
    fold = fold_of_prompts(KEYS, 4, 5)
    for number, response in enumerate(moved):
        own = dataclasses.replace(features, response=response)
        pairs, responses = fold[features.table.prompt] == number, fold[features.table.prompt_of] == number
        assert np.array_equal(preferred[pairs], model.prefer_features(own)[pairs])
        assert np.array_equal(raw[responses], model.score_features(own).raw[responses])


def test_a_response_alone_with_its_prompt_is_refused(learnt) -> None:
    model, features, _ = learnt
    table = PairTable(np.zeros(1, int), np.zeros(1, int), np.zeros(1, int), np.zeros(1, int))
    alone = dataclasses.replace(
        features, table=table, prompt=features.prompt[:1], response=features.response[:1], prompt_keys=KEYS[:1]
    )
    with pytest.raises(
        ValueError, match="1 prompts have one that can be scored: give at least two different responses"
    ):
        model.score_features(alone)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"heads": "gpm", "overlap": 0.1},
            "rewards.heads is gpm and rewards.overlap is 0.1, which is for linear heads",
        ),
        (
            {"heads": "gpm", "preference_dimension": 5},
            "preference_dimension is 5, and preferences turn in planes of two",
        ),
        ({"heads": "gpm", "preference_dimension": 0}, "rewards.preference_dimension is 0: it must be at least 2"),
        (
            {"preference_dimension": 2},
            "rewards.preference_dimension is 2 and rewards.heads is auto, which embeds nothing",
        ),
        ({"heads": "gpm", "source": "columns"}, "rewards.heads is gpm and rewards.source is columns, which learns no"),
    ],
    ids=str,
)
def test_settings_that_embeddings_do_not_go_with_are_refused(settings, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_reward_settings(RewardConfig(**settings))
