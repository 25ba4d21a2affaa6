"""Weights of MADPO, SelectiveDPO and Uni-DPO's quality: slow forms, special cases, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from importance_cases import by_method, make_rewards
from scipy.special import expit

from iwpo_fast.config import DataConfig, ExperimentalConfig, RewardConfig, RunConfig, WeightConfig
from iwpo_fast.config_checks import check_config, check_weight_settings
from iwpo_fast.importance import PairRewards, pair_weights
from iwpo_fast.importance.rivals import log_madpo, log_selected
from iwpo_fast.later_settings import LATER


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def madpo_slowly(m: float, largest: float, turn: float, sharpness: float) -> float:
    """The author's piecewise weight of one pair."""
    if m <= -turn:
        return 1.0
    least = 1 / largest
    c = least + (largest - least) / (1 + (largest - 1) / (1 - least) * math.exp(sharpness * (abs(m) - turn)))
    return sigmoid(c * m) / sigmoid(m)


@pytest.mark.parametrize(("largest", "turn", "sharpness"), [(2.0, 2.5, 1.0), (4.0, 6.9, 1.0), (1.5, 0.5, 3.0)])
def test_madpo_is_its_slow_form(largest: float, turn: float, sharpness: float) -> None:
    gap = np.concatenate([np.random.default_rng(0).normal(size=200) * 3, [0.0, turn, -turn]])
    expected = [madpo_slowly(m, largest, turn, sharpness) for m in gap.tolist()]
    weight = np.exp(log_madpo(gap, factor=largest, turn=turn, sharpness=sharpness))
    np.testing.assert_allclose(weight, expected, rtol=1e-12)
    rewards = PairRewards(gap, np.zeros(len(gap)), np.zeros(len(gap), dtype=np.int64), np.ones(1))
    named = {"madpo_factor": largest, "madpo_turn": turn, "madpo_sharpness": sharpness, "truncate": np.inf}
    normalised = pair_weights(rewards, by_method("madpo", **named), seed=0).weight
    np.testing.assert_allclose(normalised, np.array(expected) / np.mean(expected), rtol=1e-12)


def test_madpo_of_factor_one_is_dpo() -> None:
    weight = pair_weights(make_rewards(0), by_method("madpo", madpo_factor=1.0), seed=0).weight
    assert np.all(weight == 1.0)


def test_madpo_turns_the_probability_of_a_label_into_a_sharper_one() -> None:
    """Over labels drawn with σ(m): weight of the label times its probability, both ways, is σ(c m) and σ(-c m)."""
    m = np.linspace(-3, 3, 13)
    both = [np.exp(log_madpo(sign * m, factor=2.0, turn=50.0, sharpness=1.0)) * expit(sign * m) for sign in (1, -1)]
    np.testing.assert_allclose(both[0] + both[1], 1.0, rtol=1e-12)
    np.testing.assert_allclose(both[0], expit(2 * m), rtol=1e-9)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_selective_keeps_the_share_of_each_cluster_of_least_loss(share: float) -> None:
    rewards = make_rewards(1)
    settings = by_method("selective", selected_share=share, min_ess=0.01, truncate=np.inf)
    weight = pair_weights(rewards, settings, seed=0).weight
    for k in range(rewards.clusters):
        inside = np.flatnonzero(rewards.cluster == k)
        losses = [(math.log1p(math.exp(-rewards.gap[i])), i) for i in inside]
        kept = [i for _, i in sorted(losses)[: math.ceil(share * len(inside))]]
        assert set(kept) == set(inside[weight[inside] > 0])
        np.testing.assert_allclose(weight[kept], len(inside) / len(kept), rtol=1e-12)


def test_selective_of_everything_is_dpo() -> None:
    assert np.all(pair_weights(make_rewards(2), by_method("selective", selected_share=1.0), seed=0).weight == 1.0)


def test_selective_keeps_a_cluster_of_one_pair_and_pairs_that_tie() -> None:
    gap = np.array([-4.0, 1.0, 1.0, 1.0, 3.0])
    rewards = PairRewards(gap, np.zeros(5), np.array([1, 0, 0, 0, 0]), np.ones(2))
    assert np.exp(log_selected(rewards, 0.5)).tolist() == [1.0, 1.0, 1.0, 1.0, 1.0]
    assert np.exp(log_selected(rewards, 0.25)).tolist() == [1.0, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("eta", [0.1, 0.7, 2.0])
def test_the_quality_weight_of_uni_dpo_is_irpss_at_an_infinite_temperature(eta: float) -> None:
    rewards = make_rewards(3)
    weight = pair_weights(rewards, WeightConfig(tau=np.inf, gamma=eta, truncate=np.inf), seed=0).weight
    for k in range(rewards.clusters):
        inside = rewards.cluster == k
        quality = np.array([sigmoid(eta * gap) for gap in rewards.gap[inside]])
        np.testing.assert_allclose(weight[inside], quality / quality.mean(), rtol=1e-12)


def of(**settings: float | str) -> WeightConfig:
    return WeightConfig(experimental=ExperimentalConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (of(method="madpo", selected_share=0.4), "selected_share is 0.4 and weights.experimental.method is madpo"),
        (of(method="selective", madpo_turn=1.0), "madpo_turn is 1.0 and weights.experimental.method is selective"),
        (of(madpo_factor=3.0), "madpo_factor is 3.0 and weights.method is irpss"),
        (of(method="madpo", madpo_factor=0.5), "madpo_factor is 0.5: it must be"),
        (of(method="selective", selected_share=0.0), "selected_share is 0.0: it must be"),
    ],
)
def test_what_cannot_work_or_is_not_read_is_refused(settings: WeightConfig, sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"^weights\.experimental\.{sentence}"):
        check_weight_settings(settings)


def test_selective_needs_losses_on_pairs_that_heads_have_not_seen() -> None:
    weights = of(method="selective")
    with pytest.raises(ValueError, match=r"set rewards\.folds to 2 or more\.$"):
        check_config(RunConfig(DataConfig("x.jsonl"), weights=weights, rewards=RewardConfig(folds=1)))


@pytest.mark.parametrize(
    ("settings", "raised"),
    [
        (by_method("selective", selected_share=0.05), "raise weights.experimental.selected_share"),
        (by_method("madpo", min_ess=1.0), "lower weights.experimental.madpo_factor"),
    ],
)
def test_too_small_an_effective_size_names_the_setting_that_helps(settings: WeightConfig, raised: str) -> None:
    with pytest.raises(ValueError, match=f"below weights.min_ess .*: {raised}, "):
        pair_weights(make_rewards(4), settings, seed=0).check(settings)


def test_records_leave_the_new_settings_out_where_they_have_their_defaults() -> None:
    prefix = "weights.experimental."
    later = {name.removeprefix(prefix): value for name, value in LATER.items() if name.startswith(prefix)}
    assert later == {name: getattr(ExperimentalConfig(), name) for name in later} and len(later) == 4
