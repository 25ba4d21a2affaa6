from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from importance_cases import FULL, by_method, changed

from iwpo_fast.config import ExperimentalConfig, RewardConfig, WeightConfig
from iwpo_fast.importance import Candidates, PairRewards, PairWeights, check_weight_settings, pair_rewards, pair_weights
from iwpo_fast.importance.effective_size import noise_share
from iwpo_fast.rewards import PairTable, scores_from_columns

TWO = np.array([1.0, 2.0])
ZERO = np.zeros(2, dtype=np.int64)
INNER = "experimental."
CANDIDATES = Candidates(np.array([1.0, 2.0, 0.0, 0.5]), np.array([0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": np.array([])}, "no pairs to weigh"),
        ({"rejected": np.zeros(3)}, r"rejected has shape \(3,\)"),
        ({"chosen": np.array([1.0, np.nan])}, "chosen holds a reward that is not finite"),
        ({"cluster": np.array([0, -1])}, "cluster must be 2 integers from 0 up"),
        ({"cluster": np.array([0.0, 1.0])}, "cluster must be 2 integers"),
        ({"cluster": np.array([0, 3])}, "in cluster 3, but trust has 2 entries"),
        ({"trust": np.array([0.5, 1.5])}, r"trust must be one number in \[0, 1\]"),
        ({"trust": np.array([0.5, np.nan])}, r"trust must be one number in \[0, 1\]"),
        ({"prompt": None}, "give the prompt of each pair"),
        ({"prompt": ZERO, "cluster": np.array([0, 1])}, "one prompt are in different clusters"),
    ],
)
def test_rewards_that_do_not_fit_together_are_refused(change: dict[str, Any], message: str) -> None:
    good = PairRewards(TWO, TWO, ZERO, np.ones(2), prompt=np.arange(2), candidates=CANDIDATES)
    with pytest.raises(ValueError, match=message):
        replace(good, **change)


def make_weights(ess: float, cluster_ess: list[float], cluster_pairs: list[int]) -> PairWeights:
    pairs = sum(cluster_pairs)
    return PairWeights(np.ones(pairs), np.zeros(pairs), None, 2.0, ess, np.array(cluster_ess), np.array(cluster_pairs))


def test_a_low_effective_size_is_refused_unless_forced() -> None:
    weights = make_weights(0.05, [0.05], [400])
    with pytest.raises(
        ValueError,
        match=r"is 5\.0% of all 400 pairs, below weights\.min_ess 10\.0%: raise weights\.tau.*weights\.force",
    ):
        weights.check(FULL)
    weights.check(replace(FULL, force=True))
    weights.check(replace(FULL, min_ess=0.05))


def test_a_low_effective_size_of_a_large_cluster_is_refused_and_of_a_small_one_is_not() -> None:
    with pytest.raises(ValueError, match=r"is 4\.0% of the 300 pairs of cluster 1,"):
        make_weights(0.2, [0.9, 0.04, np.nan], [300, 300, 0]).check(FULL)
    make_weights(0.2, [0.9, 0.04, np.nan], [300, 20, 0]).check(FULL)


def test_an_effective_size_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is nan% of all 400 pairs"):
        make_weights(math.nan, [0.5], [400]).check(FULL)
    with pytest.raises(ValueError, match=r"is nan% of the 400 pairs of cluster 0"):
        make_weights(0.5, [math.nan], [400]).check(FULL)


def test_one_pair_that_outweighs_all_is_refused() -> None:
    chosen = np.zeros(1000)
    chosen[17] = 100.0
    rewards = PairRewards(chosen, np.zeros(1000), np.zeros(1000, dtype=np.int64), np.ones(1))
    weights = pair_weights(rewards, FULL, seed=0)
    assert weights.ess == pytest.approx(1 / 1000)
    with pytest.raises(ValueError, match=r"effective sample size is 0\.1%"):
        weights.check(FULL)


def test_scores_of_responses_become_rewards_of_pairs_that_can_be_weighed() -> None:
    draw = np.random.default_rng(0)
    chosen, rejected = draw.standard_normal((2, 400)) + np.array([[0.5], [0.0]])
    prompt_cluster = np.arange(400) % 2
    table = PairTable.plain(np.arange(400))
    scores = scores_from_columns(chosen, rejected, table, prompt_cluster, RewardConfig())
    rewards = pair_rewards(scores.calibrated, scores.trust, table, prompt_cluster, scores.members_calibrated)
    assert (rewards.chosen == scores.calibrated[::2]).all()
    assert (rewards.rejected == scores.calibrated[1::2]).all()
    assert (rewards.cluster == prompt_cluster).all()
    assert np.corrcoef(rewards.gap, chosen - rejected)[0, 1] > 0.99
    assert rewards.noise is None  # one score of each response
    weights = pair_weights(rewards, WeightConfig(), seed=0)
    for cluster in range(2):
        np.testing.assert_allclose(weights.weight[prompt_cluster == cluster].mean(), 1.0)


def test_an_ensemble_of_judges_that_agree_on_other_scales_leaves_plain_dpo() -> None:
    score = np.random.default_rng(2).standard_normal(600)
    chosen, rejected = (np.stack([part, 10 * part + 5], axis=1) for part in (score[:300] + 0.5, score[300:]))
    table, prompt_cluster = PairTable.plain(np.arange(300)), np.zeros(300, dtype=np.int64)
    scores = scores_from_columns(chosen, rejected, table, prompt_cluster, RewardConfig())
    rewards = pair_rewards(scores.calibrated, scores.trust, table, prompt_cluster, scores.members_calibrated)
    assert rewards.noise is not None and rewards.noise < 1e-12
    assert pair_weights(rewards, WeightConfig(method="irpss"), seed=0).agreed


def test_the_noise_of_rewards_is_that_of_the_members_gaps() -> None:
    members = np.random.default_rng(1).standard_normal((800, 4)) + np.tile([1.0, 0.0], 400)[:, None]
    table = PairTable.plain(np.arange(400))
    rewards = pair_rewards(members.mean(1), np.ones(1), table, np.zeros(400, dtype=np.int64), members)
    assert rewards.noise == noise_share(members[::2] - members[1::2])


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("tau", 0.0, "positive, or auto or ess"),
        ("tau", math.nan, "positive, or auto or ess"),
        ("gamma", -1.0, "0 or more"),
        ("gamma", math.inf, "finite"),
        ("experimental.rejected_exponent", math.nan, "finite"),
        ("ess_target", 0.0, r"in \(0, 1\]"),
        ("truncate", 0.9, "at least 1"),
        ("defensive", 1.1, r"in \[0, 1\]"),
        ("soft_labels", 1.0, r"in \[0, 1\)"),
        ("relative_variance", -1.0, "0 or more"),
        ("experimental.ratio_scale", 0.0, "positive"),
        ("experimental.ratio_alpha", 1.0, "above 1"),
        ("min_ess", -0.1, r"in \[0, 1\]"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_what_it_must_be(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(ValueError, match=rf"^weights\.{name} is {value}: it must be .*{wanted}"):
        check_weight_settings(changed(WeightConfig(), **{name.removeprefix(INNER): value}))


def test_a_relative_variance_without_posterior_labels_is_refused() -> None:
    settings = WeightConfig(relative_variance=2.0, soft_labels=0.3, preferred_pairs=0)
    with pytest.raises(ValueError, match=r"^weights\.relative_variance is 2\.0 and weights\.soft_labels is 0\.3"):
        check_weight_settings(settings)
    check_weight_settings(replace(settings, soft_labels="posterior"))


@pytest.mark.parametrize("reliability", [[0.5], [0.5, 1.1], [-0.1, 0], [np.nan, 1.0]])
def test_reliability_is_one_share_of_each_cluster(reliability: list[float]) -> None:
    with pytest.raises(ValueError, match="reliability must be one number in"):
        PairRewards(np.ones(2), np.zeros(2), np.array([0, 1]), np.ones(2), reliability=np.array(reliability))


@pytest.mark.parametrize("name", ["gamma", "experimental.rejected_exponent"])
@pytest.mark.parametrize("target", ["noise", 0.99, 1.0])
def test_a_term_that_a_temperature_by_effective_size_can_drop_is_refused(name: str, target: Any) -> None:
    settings = changed(WeightConfig(ess_target=target), **{name.removeprefix(INNER): 0.5})
    with pytest.raises(
        ValueError, match=rf"^weights\.{name} is 0\.5 and weights\.ess_target is {target}.*or weights\.tau"
    ):
        check_weight_settings(settings)
    check_weight_settings(replace(settings, ess_target=0.9))
    check_weight_settings(replace(settings, ess_target="noise", tau=2.0))


def test_a_temperature_and_a_target_for_it_exclude_one_another() -> None:
    with pytest.raises(ValueError, match=r"^weights\.ess_target is 0\.7 and weights\.tau is 2\.0, which keeps to no"):
        check_weight_settings(WeightConfig(tau=2.0, ess_target=0.7))


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("none", "tau", 2.0),
        ("none", "truncate", 3.0),
        ("rejection", "gamma", 1.0),
        ("density_ratio", "experimental.ratio_alpha", 2.0),
        ("irpss", "experimental.ratio_scale", 2.0),
    ],
)
def test_a_setting_that_the_method_does_not_read_is_refused(method: Any, name: str, value: float) -> None:
    wanted = rf"^weights\.{name} is {value} and weights\.(experimental\.)?method is {method}, which does not read it"
    usual = by_method(method, WeightConfig())
    with pytest.raises(ValueError, match=wanted):
        check_weight_settings(changed(usual, **{name.removeprefix(INNER): value}))
    check_weight_settings(usual)


def test_a_method_that_is_experimental_now_is_said_to_be_there() -> None:
    settings: Any = WeightConfig(method="rejection")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^weights\.method rejection is experimental now: set weights\.experimental"):
        check_weight_settings(settings)


def test_two_methods_at_once_are_refused() -> None:
    both = WeightConfig(method="none", experimental=ExperimentalConfig(method="rejection"))
    with pytest.raises(ValueError, match=r"^weights\.experimental\.method is rejection and weights\.method is none"):
        check_weight_settings(both)


def test_defaults_and_limits_pass() -> None:
    check_weight_settings(WeightConfig())
    check_weight_settings(WeightConfig(tau=math.inf, gamma=0.0, truncate=math.inf, defensive=1.0, soft_labels=0.0))
    check_weight_settings(WeightConfig(tau="ess", ess_target=1.0, min_ess=0.0))
