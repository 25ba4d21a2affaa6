"""Families of reward models: what each member is shown, what is made of that, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reward_worlds import FIXED, World, make_world

from iwpo_fast.config import FamilyConfig, PessimismConfig, RewardConfig, TuningConfig
from iwpo_fast.rewards import PairFeatures, RewardScores, check_reward_settings, score_pairs
from iwpo_fast.rewards.checks import check_features
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.family import check_rates, longer_side, members_of, shown_to
from iwpo_fast.rewards.report import report_lines

PAIRS = 800
PROMPT = np.arange(PAIRS) // 2


def lengths_of(pairs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 60, size=(pairs, 2))


def shown(asked: FamilyConfig, member: int, lengths: np.ndarray, seen: np.ndarray, seed: int = 0) -> np.ndarray:
    return shown_to(asked, member, PROMPT[: len(seen)], lengths, seen, (seed, 0, member))


def scored(world: World, **settings: object) -> RewardScores:
    """Responses whose length is their first feature, whatever the labels."""
    lengths = np.round(40 * np.exp(world.response_features[:, 0] / 2)).astype(np.int64)
    features = PairFeatures(world.table, world.prompt_features, world.response_features, lengths=lengths)
    return score_pairs(features, world.cluster, RewardConfig(**({"heads": "linear"} | FIXED | settings)), seed=0)


@pytest.mark.parametrize("by", [0.0, 0.1, 0.5])
def test_the_longer_response_has_more_tokens_by_that_share(by: float) -> None:
    lengths = lengths_of(500)
    naive = [
        1 if a > b and a - b >= round(by * b, 6) else -1 if b > a and b - a >= round(by * a, 6) else 0
        for a, b in lengths.tolist()
    ]
    assert longer_side(lengths, by).tolist() == naive
    assert longer_side(np.array([[33, 30], [30, 33], [32, 30], [30, 30]]), 0.1).tolist() == [1, -1, 0, 0]


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.83, 1.0])
def test_pairs_are_drawn_to_the_rate_that_is_asked_for(rate: float) -> None:
    lengths, seen = lengths_of(PAIRS), PROMPT % 4 != 1
    weights, longer = shown(FamilyConfig(rates=[rate]), 0, lengths, seen), longer_side(lengths, 0.1)
    assert (weights[~seen] == 0).all()
    assert (weights[seen & (longer == 0)] == 1).all()
    differing = weights[longer != 0].sum()
    assert differing == (seen & (longer != 0)).sum()
    assert abs(weights[longer == 1].sum() - rate * differing) <= 0.5


def test_a_draw_is_uniform_on_either_side() -> None:
    lengths, seen = lengths_of(PAIRS), np.ones(PAIRS, dtype=bool)
    mean = np.mean([shown(FamilyConfig(rates=[0.3]), 0, lengths, seen, seed) for seed in range(200)], axis=0)
    longer = longer_side(lengths, 0.1)
    for side, share in ((1, 0.3), (-1, 0.7)):
        expected = share * (longer != 0).sum() / (longer == side).sum()
        assert abs(mean[longer == side].mean() - expected) < 1e-2
        assert abs(mean[longer == side] - expected).max() < 5 * np.sqrt(expected / 200)


def test_members_at_one_rate_have_draws_of_their_own() -> None:
    asked = FamilyConfig(rates=[0.3, "natural"], resamples=3, subsets=2, share=0.5)
    assert asked.members == len(members_of(asked)) == 6
    lengths, seen = lengths_of(PAIRS), PROMPT % 4 != 1
    weights = [shown(asked, member, lengths, seen) for member in range(6)]
    assert not any((weights[i] == weights[j]).all() for i in range(6) for j in range(i))
    assert (weights[3] == seen).all()
    assert (shown(asked, 1, lengths, seen) == weights[1]).all()


def test_a_subset_is_of_whole_prompts() -> None:
    seen = PROMPT % 4 != 1
    weights = shown(FamilyConfig(rates=[], subsets=1, share=0.8), 0, lengths_of(PAIRS), seen)
    by_prompt = weights.reshape(-1, 2)
    assert (by_prompt[:, 0] == by_prompt[:, 1]).all()
    assert by_prompt[:, 0].sum() == round(0.8 * seen[::2].sum())
    assert set(weights.tolist()) == {0.0, 1.0} and (weights <= seen).all()


@pytest.mark.parametrize("folds", [1, 4])
def test_a_family_of_the_pairs_as_they_are_is_the_plain_head(folds: int) -> None:
    world = make_world(pairs=200)
    plain = scored(world, ensemble=1, folds=folds)
    family = scored(world, family=FamilyConfig(rates=["natural"]), folds=folds)
    for name in ("raw", "calibrated", "members_calibrated", "slope", "trust", "reliability"):
        assert (getattr(plain, name) == getattr(family, name)).all()


def test_heads_that_learn_from_longer_answers_like_them() -> None:
    world = make_world(pairs=600)
    found = scored(world, family=FamilyConfig()).report["family"]
    correlations = [row["length"] for row in found["members"]]
    assert correlations == sorted(correlations)
    assert correlations[0] < -0.2 and correlations[-1] > 0.2
    assert [row["rate"] for row in found["members"]] == [0.2, 0.35, 0.5, 0.65, 0.8]
    assert all(0.5 < row["accuracy"] < 1 for row in found["members"])


def test_the_report_says_what_a_slow_count_says() -> None:
    world = make_world(pairs=200)
    scores = scored(world, family=FamilyConfig(rates=[0.3, "natural"], subsets=1))
    lengths = np.round(40 * np.exp(world.response_features[:, 0] / 2)).astype(np.int64)
    gap = scores.raw[world.table.chosen] - scores.raw[world.table.rejected]
    more = lengths[world.table.chosen] - lengths[world.table.rejected]
    for member, row in enumerate(scores.report["family"]["members"]):
        assert row["accuracy"] == (gap[:, member] > 0).mean()
        both = np.corrcoef(np.concatenate([gap[:, member], -gap[:, member]]), np.concatenate([more, -more]))
        assert row["length"] == pytest.approx(both[0, 1])
    said = [line for line in report_lines(scores.report) if line.startswith("member ")]
    assert [line.split(":")[0] for line in said] == ["member rate 0.3", "member natural", "member 80% of prompts"]


def test_no_prompt_is_scored_by_a_member_that_saw_its_labels() -> None:
    world = make_world(pairs=200)
    before = scored(world, family=FamilyConfig(rates=[0.4, "natural"], subsets=1))
    held_out = fold_of_prompts(range(200), 4, seed=0) == 2
    swapped = replace(
        world.table,
        chosen=np.where(held_out[world.table.prompt], world.table.rejected, world.table.chosen),
        rejected=np.where(held_out[world.table.prompt], world.table.chosen, world.table.rejected),
    )
    after = scored(replace(world, table=swapped), family=FamilyConfig(rates=[0.4, "natural"], subsets=1))
    of_fold = held_out[world.table.prompt_of]
    assert (before.raw[of_fold] == after.raw[of_fold]).all()
    assert (before.raw[~of_fold] != after.raw[~of_fold]).all(axis=1).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["mlp", "gpm"])
def test_other_heads_have_families_too(heads: str) -> None:
    scores = scored(make_world(pairs=200), heads=heads, family=FamilyConfig(rates=[0.2, 0.8]))
    assert scores.raw.shape == (400, 2)
    first, second = (row["length"] for row in scores.report["family"]["members"])
    assert first < second


def test_a_rate_that_no_pair_can_give_is_refused() -> None:
    lengths = np.tile([50, 20], (8, 1))
    fold = np.arange(8) % 2
    with pytest.raises(ValueError, match=r"names 0.2, and of the pairs .* has the longer response rejected: give more"):
        check_rates(FamilyConfig(rates=[0.2]), lengths, fold, 2)
    with pytest.raises(ValueError, match="longer response chosen"):
        check_rates(FamilyConfig(rates=[0.2]), lengths[:, ::-1], fold, 2)
    with pytest.raises(ValueError, match="longer response chosen"):
        check_rates(FamilyConfig(rates=[0.0]), np.full((8, 2), 20), fold, 2)
    check_rates(FamilyConfig(rates=[1.0, "natural"]), lengths, fold, 2)
    check_rates(FamilyConfig(rates=[0.0]), lengths[:, ::-1], fold, 1)
    few = np.concatenate([lengths, [[20, 50]]])  # the one pair of the other kind is in fold 0
    with pytest.raises(ValueError, match="longer response rejected"):
        check_rates(FamilyConfig(rates=[0.2]), few, np.append(fold, 0), 2)
    check_rates(FamilyConfig(rates=[0.2]), few, np.append(fold, 0), 1)


def test_rates_need_lengths() -> None:
    world = make_world(pairs=20)
    features = PairFeatures(world.table, world.prompt_features, world.response_features)
    with pytest.raises(ValueError, match="of the lengths of responses, which the features do not have"):
        check_features(features, RewardConfig(family=FamilyConfig()))
    subsets = RewardConfig(heads="linear", family=FamilyConfig(rates=[], subsets=2), **FIXED)
    found = score_pairs(features, world.cluster, subsets, seed=0).report["family"]
    assert [set(row) for row in found["members"]] == [{"rate", "share", "accuracy"}] * 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"source": "columns"},
            "source is columns, which learns no heads: leave rewards.family out, or set rewards.so",
        ),
        ({"heads": "dprm"}, "heads is dprm, which learns from grades"),
        ({"heads": "linear", "tuning": TuningConfig()}, "tuning is set, which has one adapter for all members"),
        ({"ensemble": 3}, "rewards.ensemble is 3 and rewards.family is set"),
        ({"family": FamilyConfig(rates=[])}, "no member is left"),
        ({"family": FamilyConfig(rates=[0.2, 0.2])}, "one of them twice"),
        ({"family": FamilyConfig(rates=["natural"], resamples=2)}, "rewards.family.resamples is 2"),
        ({"family": FamilyConfig(rates=["natural"], longer_by=0.2)}, "rewards.family.longer_by is 0.2"),
        ({"family": FamilyConfig(share=0.5)}, "rewards.family.share is 0.5 and rewards.family.subsets is 0"),
        (
            {"family": FamilyConfig(rates=[1.2])},
            "rewards.family.rates is [1.2]: it must be a list of numbers in [0, 1] or natural.",
        ),
        ({"family": FamilyConfig(rates=["natural"]), "pessimism": PessimismConfig("minimum")}, "family is of one"),
    ],
)
def test_a_family_that_cannot_be_is_refused_in_a_sentence(settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        check_reward_settings(RewardConfig(**({"family": FamilyConfig()} | settings)))
    assert sentence in str(error.value)
