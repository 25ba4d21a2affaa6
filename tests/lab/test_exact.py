"""The exact level of the quality laboratory: worlds, arms, policies, expectations, comparison, resumption."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


from iwpo_fast.config import WeightConfig
from iwpo_fast.importance import PairRewards, pair_weights
from lab.exact import defaults, run, simulate
from lab.exact.arms import ARMS, build_arms, shuffle, unweighted
from lab.exact.candidates import (
    CANDIDATES,
    CATALOGUE,
    EVEN,
    TURN,
    VARIANCES,
    d_dpo,
    fixed_variance,
    madpo,
    posterior_logistic,
    posterior_squared,
    seen_twice,
    with_preferred_samples,
)
from lab.exact.compare import Interval, mean_of_changes, relative_change
from lab.exact.evaluate import evaluate, expectations, factor_for, kl_of, log_policy
from lab.exact.policy import ArmData, Policies, TrainSettings, distillation_loss, pair_loss, train
from lab.exact.regimes import FULL, FULL_BIAS, Regime
from lab.exact.rewards import PairScores, score
from lab.exact.worlds import World, WorldSettings, longer_is_chosen, make_world

SETTINGS = WorldSettings(400)
QUICK = TrainSettings(steps=30, hidden=0)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SETTINGS, 1)


@pytest.fixture(scope="module")
def scores(world: World) -> Tensor:
    """Two arbitrary policies on the test prompts: [2, P, 32]."""
    random = torch.Generator().manual_seed(3)
    return torch.randn(2, *world.test.gold.shape, generator=random) * torch.tensor([0.1, 2.0])[:, None, None]


def test_the_same_seed_gives_the_same_world_and_another_gives_another(world: World) -> None:
    again, other = make_world(SETTINGS, 1), make_world(SETTINGS, 2)
    assert torch.equal(world.train.gold, again.train.gold)
    assert torch.equal(world.candidates, again.candidates)
    assert not torch.equal(world.train.gold, other.train.gold)


def test_test_prompts_do_not_depend_on_the_pairs(world: World) -> None:
    assert torch.equal(world.test.gold, make_world(replace(SETTINGS, pairs=50, noise=0.3), 1).test.gold)


def test_candidates_of_a_prompt_are_different_completions() -> None:
    candidates = make_world(WorldSettings(300, candidates=4), 0).candidates
    assert candidates.shape == (300, 4)
    assert all(len(set(row)) == 4 for row in candidates.tolist())


@pytest.mark.slow
def test_graders_agree_with_bradley_terry_and_noise_flips_that_share() -> None:
    for noise in (0.0, 0.3):
        world = make_world(WorldSettings(8000, noise=noise), 0)
        gold = world.train.gold.gather(1, world.candidates)
        right = torch.sigmoid((gold[:, 0] - gold[:, 1]).abs())
        expected = (right * (1 - noise) + (1 - right) * noise).mean()
        seen = (gold[:, 0] > gold[:, 1]).float().mean()
        assert abs(seen - expected) < 4 * 0.5 / 8000**0.5


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_length_bias_gives_the_wanted_share_of_longer_chosen_completions(share: float) -> None:
    world = make_world(WorldSettings(4000, longer_chosen=share), 0)
    assert abs(longer_is_chosen(world.train, world.candidates).float().mean() - share) < 0.03


def test_expectations_are_those_of_explicit_sums_over_completions(world: World, scores: Tensor) -> None:
    logps = log_policy(scores, world.test, torch.ones(2))
    found = expectations(logps, world)
    probs, ref, gold = logps[1].exp().tolist(), world.test.ref_logps.exp().tolist(), world.test.gold.tolist()
    prompts = range(len(gold))
    gain = [sum((p - r) * g for p, r, g in zip(probs[i], ref[i], gold[i], strict=True)) for i in prompts]
    assert found["gold"][1] == pytest.approx(sum(gain) / len(gain), abs=1e-4)
    wins = [
        sum(p * r * ((g > h) + 0.5 * (g == h)) for p, g in zip(probs[i], gold[i], strict=True) for r, h in rows)
        for i in range(3)
        for rows in [list(zip(ref[i], gold[i], strict=True))]
    ]
    three = replace(world, test=SimpleNamespace(**{k: v[:3] for k, v in vars(world.test).items()}))  # type: ignore[arg-type]
    assert expectations(logps[:, :3], three)["win_rate"][1] == pytest.approx(sum(wins) / 3, abs=1e-5)


def test_the_reference_gains_nothing_and_wins_half(world: World) -> None:
    found = expectations(world.test.ref_logps[None], world)
    assert found["kl"][0] == 0
    assert found["gold"][0] == 0
    assert found["win_rate"][0] == pytest.approx(0.5, abs=1e-5)


def test_factors_meet_the_budget_of_kl_exactly(world: World, scores: Tensor) -> None:
    for budget in (0.25, 1.0, 2.0):
        factor = factor_for(scores, world.test, budget)
        kl = kl_of(log_policy(scores, world.test, factor), world.test)
        assert kl.tolist() == pytest.approx([budget] * 2, rel=1e-4)


def test_a_policy_that_is_another_times_a_factor_is_the_same_at_equal_kl(world: World, scores: Tensor) -> None:
    both = torch.stack([scores[0], 7 * scores[0]])
    at = log_policy(both, world.test, factor_for(both, world.test, 1.0))
    assert (at[0] - at[1]).abs().max() < 1e-3


def test_training_starts_at_the_reference_and_raises_the_gold_reward(world: World) -> None:
    start = evaluate(Policies(1, 1, 16, 0), [world])
    assert start["kl"][0, 0, 0] == pytest.approx(0.0, abs=1e-6)
    arm = ArmData(torch.ones(400), torch.zeros(400))
    for hidden in (0, 16):
        trained = evaluate(train([world], [[arm]], replace(QUICK, hidden=hidden), 0), [world])
        assert trained["gold"][0, 0].min() > 0.2


@pytest.mark.slow
def test_training_does_not_depend_on_arms_and_worlds_beside_it(world: World) -> None:
    worlds = [world, make_world(SETTINGS, 5)]
    names = ("dpo", "iwpo", "d_dpo", "wpo", "p_dpo")
    together = evaluate(train(worlds, [build_arms(w, names, 0) for w in worlds], QUICK, 0), worlds)["gold"]
    for index, name in enumerate(names):
        alone = evaluate(train([world], [build_arms(world, (name,), 0)], QUICK, 0), [world])["gold"]
        torch.testing.assert_close(alone[0, 0], together[0, index], rtol=1e-3, atol=1e-4)


def test_training_sees_all_pairs() -> None:
    """The loss of pairs that weigh nothing does not move a policy; that of the last pair alone does."""
    world = make_world(replace(SETTINGS, pairs=64), 0)
    weights = torch.zeros(64)
    weights[-1] = 1
    policies = train([world], [[ArmData(weights, torch.zeros(64)), ArmData(0 * weights, weights)]], QUICK, 0)
    moved = policies.parameters[0].detach().abs().amax(1)[0]
    assert moved[0] > 0
    assert moved[1] == 0


def test_losses_are_dpo_and_distillation() -> None:
    margin, smoothing = torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([0.0, 0.2, 0.75])
    expected = -(1 - smoothing) * torch.sigmoid(0.3 * margin).log() - smoothing * torch.sigmoid(-0.3 * margin).log()
    torch.testing.assert_close(pair_loss(margin, smoothing, 0.3), expected)
    targets = torch.tensor([[0.0, 1.0], [1.0, 0.15], [0.9, 5.0]])
    torch.testing.assert_close(distillation_loss(margin, targets, 0.3), torch.tensor([0.36, 0.0, 0.0]))


def test_arms_differ_where_they_should(world: World) -> None:
    names = ("dpo", "iwpo", "soft", "labels_only", "resampling", "cheap_rival", "oracle", "e_dpo", "p_dpo", "wpo")
    made = dict(zip(names, build_arms(world, names, 0), strict=True))
    ones, zeros = torch.ones(400), torch.zeros(400)
    assert torch.equal(made["dpo"].weights, ones)
    assert torch.equal(made["dpo"].smoothing, zeros)
    assert torch.equal(made["iwpo"].smoothing, zeros)
    assert made["iwpo"].weights.std() > 0.1
    assert torch.equal(made["soft"].weights, made["iwpo"].weights)
    assert made["soft"].smoothing.max() > 0.05
    assert torch.equal(made["labels_only"].weights, ones)
    assert made["labels_only"].smoothing.max() > 0.05
    assert torch.equal(made["resampling"].weights, made["resampling"].weights.round())
    assert torch.equal(made["cheap_rival"].weights, ones)
    assert 0 < made["cheap_rival"].smoothing.min() < made["cheap_rival"].smoothing.max() < 0.75
    assert not torch.equal(made["oracle"].weights, made["iwpo"].weights)
    targets = made["e_dpo"].targets
    assert targets is not None
    assert targets.shape == (400, 4)
    assert made["p_dpo"].forward_kl > 0
    assert made["wpo"].wpo


def test_true_rewards_weigh_clean_labels_more(world: World) -> None:
    (arm,) = build_arms(world, ("oracle",), 0)
    gold = world.train.gold.gather(1, world.candidates)
    right = gold[:, 0] > gold[:, 1]
    assert arm.weights[right].mean() > 2 * arm.weights[~right].mean()


def test_shuffling_keeps_the_histogram_of_each_cluster(world: World) -> None:
    rewards = score(world, "oracle", 0).rewards
    made = pair_weights(rewards, WeightConfig(form="strong"), seed=0)
    weight, smoothing = shuffle(made, rewards.cluster, 0)
    assert not np.array_equal(weight, made.weight)
    for k in range(rewards.clusters):
        own = rewards.cluster == k
        assert np.array_equal(np.sort(weight[own]), np.sort(made.weight[own]))
        assert np.array_equal(np.sort(smoothing[own]), np.sort(made.label_smoothing[own]))


@pytest.mark.slow
def test_the_family_of_biased_models_disagrees_about_length() -> None:
    world = make_world(WorldSettings(2000, longer_chosen=0.65), 0)
    gaps = score(world, "biased_family", 0).gaps
    rows = torch.arange(2000)[:, None]
    longer = np.sign(-np.diff(world.train.length[rows, world.candidates].numpy())[:, 0])
    likes_length = (gaps * longer[:, None]).mean(0)
    assert (np.diff(likes_length) > 0).all()


def test_relative_change_is_of_the_means_and_zero_against_oneself() -> None:
    base, changed = np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.2, 3.3])
    found = relative_change(changed, base)
    assert found.mean == pytest.approx(10.0)
    assert (found.low, found.high) == pytest.approx((10.0, 10.0))
    assert relative_change(base, base) == Interval(0.0, 0.0, 0.0)
    assert mean_of_changes([(changed, base), (base, base)]).mean == pytest.approx(5.0)


@pytest.mark.slow
def test_intervals_cover_the_truth_about_nineteen_times_in_twenty() -> None:
    random = np.random.default_rng(0)
    base = 2 + 0.5 * random.standard_normal((2000, 20))
    changed = base * 1.03 + 0.1 * random.standard_normal(base.shape)
    found = [relative_change(c, b) for c, b in zip(changed, base, strict=True)]
    covered = np.mean([i.low <= 3 <= i.high for i in found])
    assert 0.93 < covered < 0.97


def test_the_full_table_has_every_regime_and_every_arm_but_that_for_language_models() -> None:
    names = [regime.name for regime in (*FULL, *FULL_BIAS)]
    assert len(set(names)) == len(names)
    assert {arm for regime in (*FULL, *FULL_BIAS) for arm in regime.arms} == set(ARMS) - {"hidden_states"}
    assert all(regime.arms[0] == "dpo" for regime in (*FULL, *FULL_BIAS))


@pytest.mark.slow
def test_a_second_run_takes_up_what_the_first_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    regime = Regime("small", replace(SETTINGS, pairs=64), ("dpo", "oracle"), QUICK)
    monkeypatch.setattr(simulate, "WORLDS_AT_ONCE", 2)
    first = simulate.outcomes(regime, 4, tmp_path, "a")
    assert len(list(tmp_path.iterdir())) == 2
    lost = sorted(tmp_path.iterdir())[0]
    lost.unlink()
    made: list[Any] = []
    real = simulate._simulate

    def counted(*call: Any) -> dict[str, Any]:
        made.append(call)
        return real(*call)

    monkeypatch.setattr(simulate, "_simulate", counted)
    again = simulate.outcomes(regime, 4, tmp_path, "a")
    assert len(made) == 1
    assert all(np.array_equal(first[arm]["gold"], again[arm]["gold"]) for arm in regime.arms)
    simulate.outcomes(regime, 4, tmp_path, "b")
    assert len(made) == 3


@pytest.mark.slow
def test_one_command_writes_results_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = ("dpo", "default", "iwpo", "labels_only", "cheap_rival", "d_dpo")
    curves = (
        "dpo",
        "default",
        "iwpo",
        "soft_ensemble",
        "cheap_rival",
        "d_dpo",
        "e_dpo",
        "e_dpo_biased_family",
        "p_dpo",
    )
    small = replace(SETTINGS, pairs=128)
    monkeypatch.setattr(run, "SHORT", (Regime("small", small, shown, QUICK),))
    biased = replace(small, longer_chosen=0.8)
    monkeypatch.setattr(run, "SHORT_BIAS", (Regime("biased", biased, curves, QUICK),))
    folders = ["--out", str(tmp_path / "out"), "--parts", str(tmp_path / "parts")]
    path = run.main(["--short", "--worlds", "3", "--commit", "abc", *folders])
    made = {file.name for file in path.parent.iterdir()}
    stem = "exact-short"
    assert made == {f"{stem}.json", f"{stem}.md"}
    text = path.with_suffix(".md").read_text()
    assert "| small |" in text
    assert "| biased |" in text


def test_unknown_regimes_are_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of this run's: choose of 300 pairs"):
        run.main(["--regimes", "5 pairs", "--out", str(tmp_path)])


def certain(scores: PairScores) -> PairScores:
    """Rewards that are known to say something of labels."""
    rewards = scores.rewards
    return replace(scores, rewards=replace(rewards, reliability=np.ones(rewards.clusters)))


def test_posterior_candidates_go_from_labels_to_distillation_with_the_variance(world: World) -> None:
    scores = certain(score(world, "ensemble", 0))
    variances = [partial(fixed_variance, s2=s2) for s2 in (1e9, 1.0, 0.0)]
    labels, _, distilled = (posterior_logistic(variance, EVEN)(scores, 0).smoothing for variance in variances)
    assert labels.max() < 1e-3
    np.testing.assert_allclose(distilled.numpy(), expit(-scores.rewards.gap), rtol=1e-6, atol=1e-6)
    _, shifted, squared = (posterior_squared(variance, EVEN)(scores, 0) for variance in variances)
    assert torch.equal(squared.targets, d_dpo(scores, 0).targets)
    assert torch.equal(squared.weights, torch.ones(400))
    assert (shifted.targets > squared.targets).all()


def test_a_relative_variance_is_the_fixed_one_of_that_size(world: World) -> None:
    scores = score(world, "ensemble", 0)
    size = float(np.mean(scores.rewards.gap**2))
    relative, fixed = (
        posterior_logistic(v, EVEN)(scores, 0) for v in (VARIANCES["ν 2"], partial(fixed_variance, s2=2 * size))
    )
    assert torch.equal(relative.smoothing, fixed.smoothing)


def test_preferred_samples_stand_beside_the_labelled_pairs_and_are_of_their_prompts(world: World) -> None:
    scores = score(world, "ensemble+4", 0)
    plain = score(world, "ensemble", 0)
    np.testing.assert_allclose(scores.rewards.gap, plain.rewards.gap, atol=1e-5)
    arm = with_preferred_samples(VARIANCES["ν 1"])(scores, 0)
    assert arm.prompts is not None and arm.completions is not None and scores.completions is not None
    assert torch.equal(arm.completions[:400], world.candidates[:, :2])
    assert torch.equal(arm.prompts, torch.cat([torch.arange(400), arm.prompts[400:]]))
    assert sorted(arm.prompts[400:].tolist()) == list(range(400))
    for prompt, pair in zip(arm.prompts[400:].tolist(), arm.completions[400:].tolist(), strict=True):
        assert set(pair) <= set(scores.completions[prompt].tolist())
    assert ((arm.smoothing > 0) & (arm.smoothing < 1)).all()


def test_madpo_sharpens_labels_that_rewards_are_unsure_of_and_leaves_the_others(world: World) -> None:
    scores = score(world, "ensemble", 0)
    gaps = np.array([0.0, 1e-6, 2.0, -2.0, TURN, -TURN - 1])
    rewards = PairRewards(gaps, np.zeros(6), np.zeros(6, dtype=np.int64), np.ones(1))
    weights = madpo(replace(scores, rewards=rewards), 0).weights.double().numpy()
    assert weights[:2] == pytest.approx(1)
    assert weights[2] > 1 > weights[3]
    assert weights[4] == pytest.approx(1, abs=1e-5)
    assert weights[5] == 1


def test_weights_reach_distilled_pairs(world: World) -> None:
    """A pair of weight 0 has no part in the policy of a distilled arm."""
    count = len(world.candidates)
    weights = torch.ones(count)
    weights[::2] = 0
    targets = torch.randn(count, 1, generator=torch.Generator().manual_seed(0))
    other = torch.where(weights[:, None] == 0, 100.0, targets)
    arms = [ArmData(weights, torch.zeros(count), targets=t) for t in (targets, other)]
    first, second = train([world], [arms], QUICK, 0).parameters[0][0].unbind(-1)
    assert torch.equal(first, second)
    assert first.abs().max() > 0


def test_the_librarys_default_is_a_candidate(world: World) -> None:
    (default,) = build_arms(world, ("default",), 0)
    (chosen,) = build_arms(world, ("default until now; linear",), 0, CATALOGUE)
    assert default.weights.std() > 0.2
    assert torch.equal(default.weights, chosen.weights)
    assert torch.equal(default.smoothing, chosen.smoothing)


def judged_as(*means: float) -> dict[str, Any]:
    """Intervals of half a per cent to either side."""
    changes = {str(i): Interval(mean, mean - 0.5, mean + 0.5) for i, mean in enumerate(means)}
    mean = sum(means) / len(means)
    return defaults.judged(changes, Interval(mean, mean - 0.5, mean + 0.5))


def test_the_choice_is_harmless_before_it_is_good() -> None:
    judged = {"large": judged_as(9, -1), "even": judged_as(2, -0.4), "small": judged_as(1, 0), "bad": judged_as(-1, -9)}
    assert (judged["large"]["better"], judged["large"]["worse"]) == (1, 1)
    assert defaults.by_rank(judged) == ["even", "small", "large", "bad"]


def test_finalists_are_the_best_by_rank_and_the_rivals() -> None:
    judged = {str(i): judged_as(i, 1) for i in range(6)} | {name: judged_as(-9, -9) for name in defaults.BESIDE}
    assert defaults.finalists_of(judged) == ["5", "4", "3", "2", *defaults.BESIDE]


def test_the_choice_has_worlds_apart_from_those_of_the_table() -> None:
    choice, table = (defaults.regimes_of(["MADPO; linear"], seed) for seed in (defaults.CHOICE_SEED, 0))
    assert {regime.first_seed for regime in choice} == {5000}
    assert [regime.name for regime in choice] == [regime.name for regime in table] == [regime.name for regime in FULL]


@pytest.mark.slow
def test_the_choice_and_its_confirmation_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "FULL", (Regime("of the table", replace(SETTINGS, pairs=64), ("dpo",), QUICK),))
    few = {name: CANDIDATES[name] for name in (*defaults.BESIDE, "logistic, ν 1; linear", "squared, s² 1; linear")}
    monkeypatch.setattr(defaults, "CANDIDATES", few)
    folders = ["--out", str(tmp_path / "out"), "--parts", str(tmp_path / "parts")]
    path = defaults.main(["--worlds", "3", "--commit", "abc", *folders])
    result = json.loads(path.read_text())
    assert result["choice"]["candidates"].keys() == few.keys()
    assert set(result["confirmation"]["candidates"]) == set(result["finalists"]) >= set(defaults.BESIDE)
    assert "| of the table |" in path.with_suffix(".md").read_text()


def test_a_control_sees_every_labelled_pair_twice() -> None:
    world = make_world(WorldSettings(120), 3)
    scores = score(world, "ensemble+4", 3)
    once, twice = CATALOGUE["logistic, ν 1; linear"].build(scores, 3), seen_twice(unweighted())(scores, 3)
    again = seen_twice(CATALOGUE["logistic, ν 1; linear"].build)(scores, 3)
    assert scores.completions is not None and twice.completions is not None and again.prompts is not None
    np.testing.assert_array_equal(twice.completions.numpy(), np.tile(scores.completions[:, :2], (2, 1)))
    assert again.prompts.tolist() == [*range(120)] * 2
    assert torch.equal(again.smoothing, once.smoothing.repeat(2)) and not twice.smoothing.any()
