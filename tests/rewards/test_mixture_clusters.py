"""Clusters that are learnt with rewards: what a mixture finds, what it gives away, and when it is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from iwpo_fast.config import ClusterConfig, RewardConfig
from iwpo_fast.rewards import Clusters, PairFeatures, PairTable, cluster_prompts, fit_clusters, mixture, score_pairs
from iwpo_fast.rewards.clusters import GatedClusters
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.mixture import LabelledPrompts, Mixture, Penalties, fit_mixture
from iwpo_fast.rewards.mixture_choice import held_out_trials, mixture_trial
from iwpo_fast.rewards.mixture_clusters import aligned, gates_of
from iwpo_fast.rewards.mixture_inputs import Inputs, read_inputs
from iwpo_fast.rewards.scores import folds_for

PROMPTS = 600
SETTINGS = ClusterConfig(count=2, method="mixture", backend="sklearn", min_pairs=50)
HEADS = RewardConfig(ensemble=1, ridge=1e-3, residual=1e-3)
PENALTIES = Penalties(shared=1e-3, residual=1e-3, gate=1e-4)


def opposite_groups(prompts: int = PROMPTS, pairs: int = 1, seed: int = 0) -> tuple[PairFeatures, np.ndarray]:
    """Two groups of opposite taste; what tells them apart is small beside two other directions of prompts."""
    draw = np.random.default_rng(seed)
    group = draw.integers(2, size=prompts)
    prompt = draw.standard_normal((prompts, 8)).astype(np.float32)
    prompt[:, :2] *= 5
    prompt[:, 2] = 1.5 * (2 * group - 1) + 0.5 * prompt[:, 2]
    of_pair = np.arange(prompts).repeat(pairs)
    responses = draw.standard_normal((len(of_pair), 2, 16)).astype(np.float32)
    gap = (responses[:, 0] - responses[:, 1]) @ draw.standard_normal(16) / 2 * (2 * group - 1)[of_pair]
    second = draw.random(len(of_pair)) > expit(gap)
    responses[second] = responses[second][:, ::-1]
    return PairFeatures(PairTable.plain(of_pair), prompt, responses.reshape(-1, 16)), group


def noise(prompts: int = 400, features: int = 64, seed: int = 0) -> PairFeatures:
    """Features that say nothing of the labels."""
    draw = np.random.default_rng(seed)
    prompt, response = draw.standard_normal((prompts, features)), draw.standard_normal((2 * prompts, 16))
    return PairFeatures(PairTable.plain(np.arange(prompts)), prompt.astype(np.float32), response.astype(np.float32))


def inputs_of(features: PairFeatures, count: int = 2) -> Inputs:
    settings = replace(SETTINGS, count=count)
    ones = np.ones(len(features.prompt), dtype=np.int64)
    by_kmeans = fit_clusters(features.prompt, ones, settings, seed=0)
    return read_inputs(features, HEADS, by_kmeans, np.arange(len(features.prompt)), seed=0)


def purity(cluster: np.ndarray, group: np.ndarray) -> float:
    """Share of prompts that are of the commoner group in their cluster."""
    return sum(np.bincount(group[cluster == k]).max() for k in np.unique(cluster)) / len(group)


def accuracy(features: PairFeatures, cluster: np.ndarray) -> float:
    """On pairs that heads had not seen."""
    return float(score_pairs(features, cluster, HEADS, seed=0).report["total"]["accuracy"])


@pytest.fixture(scope="module")
def planted() -> tuple[PairFeatures, np.ndarray]:
    return opposite_groups()


@pytest.fixture(scope="module")
def learnt(planted) -> tuple[Clusters, np.ndarray, dict]:
    return cluster_prompts(planted[0], SETTINGS, HEADS, seed=0)


@pytest.mark.slow
def test_a_mixture_finds_groups_of_opposite_taste_that_k_means_does_not_see(planted, learnt) -> None:
    (features, group), (_, cluster, report) = planted, learnt
    _, by_kmeans, nothing = cluster_prompts(features, replace(SETTINGS, method="kmeans"), HEADS, seed=0)
    assert report["taken"] and not nothing
    assert purity(by_kmeans, group) < 0.6 and purity(cluster, group) > 0.97
    assert accuracy(features, by_kmeans) < 0.6 and accuracy(features, cluster) > 0.75


def test_new_prompts_find_their_group_by_features_alone(learnt) -> None:
    others, group = opposite_groups(seed=7)
    assert purity(learnt[0].assign(others.prompt), group) > 0.97


def test_gates_of_all_folds_give_one_group_the_same_number(planted, learnt) -> None:
    clusters, prompt = learnt[0], planted[0].prompt
    whole = clusters.assign(prompt)
    for f in range(4):
        assert (clusters.assign(prompt, np.full(len(prompt), f)) == whole).mean() > 0.95


def test_experts_in_another_order_get_their_numbers_back(planted) -> None:
    inputs = inputs_of(planted[0], count=4)
    whole, order = fit_mixture(inputs.examples, inputs.start(), PENALTIES), [2, 0, 3, 1]
    other = Mixture(whole.gate[order], whole.bias[order], whole.shared, whole.residuals[order])
    found, prompts = aligned(other, whole, inputs.examples), inputs.examples.prompts
    assert (other.assign(prompts) != whole.assign(prompts)).mean() > 0.5
    assert np.array_equal(found.assign(prompts), whole.assign(prompts))
    expert, gaps = whole.assign(prompts), inputs.examples.gaps
    rows = np.arange(PROMPTS)
    assert np.array_equal(found.margins(gaps)[rows, expert], whole.margins(gaps)[rows, expert])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_gates(planted, learnt) -> None:
    again = cluster_prompts(planted[0], SETTINGS, HEADS, seed=0)[0]
    assert isinstance(again, GatedClusters)
    assert all(np.array_equal(getattr(again, name), value) for name, value in vars(learnt[0]).items())


def test_saved_gates_assign_the_same(planted, learnt, tmp_path) -> None:
    clusters, cluster, _ = learnt
    clusters.save(tmp_path / "clusters.safetensors")
    loaded, prompt = Clusters.load(tmp_path / "clusters.safetensors"), planted[0].prompt
    fold = folds_for(planted[0], len(prompt), HEADS, 0)
    assert loaded.folds == 4 and loaded.count == clusters.count
    assert np.array_equal(loaded.assign(prompt, fold), cluster)
    assert np.array_equal(loaded.assign(prompt), clusters.assign(prompt))


@pytest.mark.slow
def test_a_gate_has_not_seen_the_labels_of_its_own_fold(planted, learnt) -> None:
    features, table = planted[0], planted[0].table
    fold = folds_for(features, PROMPTS, HEADS, 0)
    turned = fold[table.prompt] == 2
    other = PairTable(
        table.prompt,
        np.where(turned, table.rejected, table.chosen),
        np.where(turned, table.chosen, table.rejected),
        table.prompt_of,
    )
    trial, again = (mixture_trial(inputs_of(replace(features, table=t)), PENALTIES) for t in (table, other))
    assert np.array_equal(trial.mixtures[2].gate, again.mixtures[2].gate)
    assert not np.array_equal(trial.mixtures[1].gate, again.mixtures[1].gate)


@pytest.mark.slow
def test_labels_that_are_noise_are_given_away_by_one_gate_and_not_by_those_of_folds() -> None:
    found = []
    for seed in range(2):
        features = noise(seed=seed)
        inputs = inputs_of(features, count=4)
        gates = gates_of(inputs, mixture_trial(inputs, PENALTIES))
        fold = folds_for(features, len(features.prompt), HEADS, 0)
        clusters = gates.assign(features.prompt, fold), gates.assign(features.prompt)
        found.append([accuracy(features, cluster) for cluster in clusters])
    by_fold, by_one = np.mean(found, axis=0)
    assert abs(by_fold - 0.5) < 3 * 0.5 / 800**0.5
    assert by_one > 0.6


@pytest.mark.slow
def test_k_means_stays_where_labels_are_noise() -> None:
    features = noise()
    clusters, cluster, report = cluster_prompts(features, SETTINGS, HEADS, seed=0)
    by_kmeans = cluster_prompts(features, replace(SETTINGS, method="kmeans"), HEADS, seed=0)
    assert not report["taken"] and report["held_out_gain"] <= report["standard_error"]
    assert clusters.folds == 0 and np.array_equal(cluster, by_kmeans[1])


@pytest.mark.slow
def test_a_mixture_of_which_one_cluster_is_left_is_not_taken(planted) -> None:
    clusters, _, report = cluster_prompts(planted[0], replace(SETTINGS, min_pairs=10**6), HEADS, seed=0)
    assert report["held_out_gain"] > report["standard_error"] and not report["taken"]
    assert clusters.folds == 0


@pytest.mark.slow
def test_one_head_is_tried_under_the_penalties_of_every_mixture(planted) -> None:
    trials = held_out_trials(inputs_of(planted[0]))
    heads = [trial.penalties[:2] for trial in trials if trial.kind == "one head"]
    assert {trial.penalties[:2] for trial in trials if trial.kind == "mixture"} <= set(heads)


def test_more_iterations_never_lower_the_objective(planted, monkeypatch) -> None:
    inputs, penalties = inputs_of(planted[0]), PENALTIES
    found = []
    for iterations in (0, 1, 2, 4, 8, 16, 32, 64):
        monkeypatch.setattr(mixture, "MOST_ITERATIONS", iterations)
        found.append(fit_mixture(inputs.examples, inputs.start(), penalties).objective(inputs.examples, penalties))
    assert (np.diff(found) > -1e-7).all()
    assert found[-1] > found[0] + 0.1


@pytest.mark.parametrize("bound", [False, True])
def test_gradients_are_those_of_differences_and_prompts_count_all_their_pairs(bound) -> None:
    features, _ = opposite_groups(prompts=30, pairs=3)
    read = inputs_of(features)
    examples, draw = read.examples, np.random.default_rng(0)
    start = Mixture(*(draw.standard_normal(shape) for shape in ((2, 8), (2,), (16,), (2, 16))))
    penalties = Penalties(0.1, 0.2, 0.3)
    shares = draw.dirichlet([1, 1], size=30) if bound else None
    _, gradient = start.loss(examples, penalties, shares)
    direction = draw.standard_normal(len(start.flat()))
    ahead, behind = (
        start.unflat(start.flat() + step * direction).loss(examples, penalties, shares)[0] for step in (1e-3, -1e-3)
    )
    assert (ahead - behind) / 2e-3 == pytest.approx(gradient.flat() @ direction, rel=1e-3)


def test_the_objective_is_the_log_of_sums_over_experts_of_products_over_pairs() -> None:
    examples = LabelledPrompts.of(
        np.array([[1.0], [-2.0]], np.float32), np.array([[0.5], [1.0], [-1.0]], np.float32), np.array([0, 0, 1])
    )
    one = Mixture(np.array([[1.0], [0.0]]), np.array([0.0, 0.5]), np.array([1.0]), np.array([[1.0], [-2.0]]))
    gate = [expit(1.0 - 0.5), expit(-2.0 - 0.5)]
    first = gate[0] * expit(2 * 0.5) * expit(2 * 1.0) + (1 - gate[0]) * expit(-0.5) * expit(-1.0)
    second = gate[1] * expit(-2.0) + (1 - gate[1]) * expit(1.0)
    penalty = 0.1 * 1 + 0.2 * 5 + 0.3 * 1
    expected = (np.log(first) + np.log(second)) / 3 - penalty
    assert one.objective(examples, Penalties(0.1, 0.2, 0.3)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_no_gated_cluster_is_left_with_too_few_pairs(planted) -> None:
    clusters, cluster, report = cluster_prompts(planted[0], replace(SETTINGS, count=3, min_pairs=150), HEADS, seed=0)
    assert report["taken"]
    assert np.bincount(cluster).min() >= 150 and clusters.count == cluster.max() + 1


@pytest.mark.slow
def test_gates_that_are_fitted_on_some_prompts_assign_all(planted) -> None:
    features, group = planted
    _, cluster, report = cluster_prompts(features, replace(SETTINGS, fit_prompts=400), HEADS, seed=0)
    assert report["taken"] and len(cluster) == PROMPTS
    assert purity(cluster, group) > 0.95


@pytest.mark.slow
def test_equal_prompts_make_one_cluster() -> None:
    features = replace(noise(), prompt=np.ones((400, 5), dtype=np.float32))
    assert cluster_prompts(features, SETTINGS, HEADS, seed=0)[1].tolist() == [0] * 400


@pytest.mark.slow
def test_a_fold_without_prompts_is_no_obstacle() -> None:
    keys = [key for key in range(400) if fold_of_prompts([key], 4, 0)[0] != 1][:60]
    features = replace(noise(prompts=60), prompt_keys=keys)
    inputs = inputs_of(features)
    gates = gates_of(inputs, mixture_trial(inputs, PENALTIES))
    assert 1 not in inputs.fold and gates.folds == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompt": np.full((400, 8), np.nan, np.float32)}, "NaN or infinite"),
        ({"response": np.ones((3, 16), np.float32)}, "give one row of features for each"),
        ({"prompt_keys": [1] * 400}, "different prompts: lower it"),
    ],
)
def test_features_that_do_not_fit_are_refused(change, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        cluster_prompts(replace(noise(), **change), SETTINGS, HEADS, seed=0)


def test_features_of_another_model_are_refused(learnt) -> None:
    with pytest.raises(ValueError, match="take features of the model"):
        learnt[0].assign(np.ones((4, 5), np.float32))
