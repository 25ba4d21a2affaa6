"""DRPO's estimate: a naive form, what its mean is, where it is doubly robust, and the objective of the laboratory."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from iwpo_fast.objectives import Pair, Side
from iwpo_fast.objectives.drpo import drpo
from iwpo_fast.objectives.pair import Between
from lab.exact.doubly_robust import DoublyRobust, bradley_terry, correction, direct, loss_of, value
from lab.exact.judges import (
    KL,
    MANY,
    PAIRS,
    Estimator,
    Worlds,
    at_kl,
    direction,
    dpo,
    estimate,
    shares_of,
    worlds_of,
    worth,
)
from lab.exact.policy import ArmData, TrainSettings, train
from lab.exact.rewards import score, scores_by_model
from lab.exact.worlds import COMPLETIONS, World, WorldSettings, make_world

Y = 5
CELLS = list(product((True, False), repeat=2))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def given() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs [3, Y], pairs [3, 2], log-probs of the reference [3, 2], what a judge says [3, Y, 2]."""
    pair = torch.tensor([[0, 3], [4, 1], [2, 2]])
    judged = random(3, Y, 2, seed=2).sigmoid()
    return random(3, Y).log_softmax(1), pair, random(3, Y, seed=1).log_softmax(1).gather(1, pair), judged


def naive(logps: Tensor, pair: Tensor, log_ref: Tensor, judged: Tensor, clip: float) -> list[float]:
    """One pair, one order and one response at a time."""
    found = []
    for row in range(len(pair)):
        both = 0.0
        for y, other in ((0, 1), (1, 0)):
            said = [float(judged[row, k, other]) for k in range(Y)]
            believed = sum(math.exp(float(logps[row, k])) * said[k] for k in range(Y))
            own = int(pair[row, y])
            ratio = math.exp(float(logps[row, own]) - float(log_ref[row, y]))
            label = 1.0 if y == 0 else 0.0
            both += believed + min(max(ratio, 1 / clip), clip) * (label - said[own])
        found.append(both / 2)
    return found


@pytest.mark.parametrize("clip", [math.inf, 1.5, 1.0])
def test_the_estimate_is_the_naive_one(given, clip) -> None:
    assert value(*given, clip=clip).tolist() == pytest.approx(naive(*given, min(clip, 1e300)), rel=1e-12)


def test_pairs_of_any_shape_are_estimated_one_by_one(given) -> None:
    stacked = (torch.stack([part, part.flip(0)]) for part in given)
    once = value(*given, clip=2.5)
    torch.testing.assert_close(value(*stacked, clip=2.5), torch.stack([once, once.flip(0)]), rtol=0, atol=1e-15)


def test_the_gradient_without_a_clip_is_that_of_the_estimate(given) -> None:
    logps, *rest = given
    assert torch.autograd.gradcheck(lambda free: value(free.log_softmax(1), *rest), logps.clone().requires_grad_())


def test_a_clipped_ratio_keeps_pushing_a_response_that_was_judged_too_good(given) -> None:
    """However improbable it is: as in the authors' code, the gradient is the clipped ratio times that of log π."""
    logps, pair, log_ref, judged = given
    improbable = logps.clone().scatter(1, pair[:, 1:], -50.0).requires_grad_()
    correction(improbable, pair, log_ref, judged, clip=2.5)[0].backward()
    expected = -judged[0, pair[0, 1], 0] / 2.5 / 2
    assert float(improbable.grad[0, pair[0, 1]]) == pytest.approx(float(expected), rel=1e-12)
    assert not improbable.grad[1:].any()


@pytest.mark.parametrize("clip", [0.5, -1.0, 0.0, math.nan])
def test_a_clip_that_leaves_no_ratio_is_one_sentence(given, clip) -> None:
    with pytest.raises(ValueError, match=r"^clip is .*: give a number of 1 or more\.$"):
        value(*given, clip=clip)


def antisymmetric(pair: Tensor) -> Tensor:
    """Of a judge who says 1 - g of a pair that is turned round."""
    return bradley_terry(random(len(pair), Y, seed=3), pair)


def test_where_the_policy_is_the_reference_nothing_is_corrected(given) -> None:
    """Ratios are 1, and what is missing for the chosen response is what is too much for the rejected one."""
    logps, pair, _, _ = given
    found = correction(logps, pair, logps.gather(1, pair), antisymmetric(pair))
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-15)


def test_the_correction_is_the_doubt_of_the_label_times_the_difference_of_ratios(given) -> None:
    logps, pair, log_ref, _ = given
    judged = antisymmetric(pair)
    ratio = (logps.gather(1, pair) - log_ref).exp()
    doubt = judged[torch.arange(3), pair[:, 1], 0]  # how often the judge prefers the rejected one
    expected = doubt * (ratio[:, 0] - ratio[:, 1]) / 2
    torch.testing.assert_close(correction(logps, pair, log_ref, judged), expected)


def test_a_label_that_is_flipped_moves_the_estimate_by_half_the_difference_of_ratios(given) -> None:
    """What the judge says is the same under both labels."""
    logps, pair, log_ref, _ = given
    judged = antisymmetric(pair)
    turned = value(logps, pair.flip(1), log_ref.flip(1), judged.flip(2))
    ratio = (logps.gather(1, pair) - log_ref).exp()
    expected = (ratio[:, 0] - ratio[:, 1]) / 2
    torch.testing.assert_close(value(logps, pair, log_ref, judged) - turned, expected)


def test_a_judge_who_knows_nothing_leaves_importance_sampling_against_a_half(given) -> None:
    logps, pair, log_ref, judged = given
    half, none = torch.full_like(judged, 0.5), torch.zeros_like(judged)
    ratio = (logps.gather(1, pair) - log_ref).exp()
    expected = 0.5 + correction(logps, pair, log_ref, none) - ratio.mean(1) / 2
    torch.testing.assert_close(value(logps, pair, log_ref, half), expected)


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    return worlds_of(5, 8)


@pytest.fixture(scope="module")
def logps(worlds: Worlds) -> Tensor:
    return at_kl(worlds, worlds.gain)


def expected_errors(worlds: Worlds, estimator: Estimator, logps: Tensor) -> Tensor:
    """Σ_y Σ_y' μ(y) μ(y') (π/π̂ - π/μ)(y) (P - g)(y, y'): the product of both errors."""
    drawn, probs = worlds.drawn.exp(), logps.exp()
    ratios = probs / worlds.reference(right=estimator.reference).exp() - probs / drawn
    errors = worlds.preferred - worlds.judged(right=estimator.judge)
    return torch.einsum("wy,wz,wy,wyz->w", drawn, drawn, ratios, errors)


@pytest.mark.parametrize(("judge", "reference"), CELLS)
def test_its_mean_is_off_by_the_product_of_both_errors(worlds, logps, judge, reference) -> None:
    estimator, shares = Estimator(judge, reference), shares_of(worlds, MANY, 0)
    off = estimate(worlds, estimator, logps, shares) - worth(worlds, logps)
    torch.testing.assert_close(off, expected_errors(worlds, estimator, logps), rtol=1e-9, atol=1e-12)
    assert float(off.abs().max()) < 1e-12 if judge or reference else float(off.abs().min()) > 1e-4


def test_where_the_judge_is_right_the_correction_has_mean_zero_clipped_or_not(worlds, logps) -> None:
    shares = shares_of(worlds, MANY, 0)
    alone = estimate(worlds, Estimator(judge=True), logps, shares)
    for clip in (math.inf, 1.2):
        both = estimate(worlds, Estimator(True, False, clip), logps, shares)
        torch.testing.assert_close(both, alone, rtol=0, atol=1e-12)


def test_a_clip_costs_what_the_right_reference_gave(worlds, logps) -> None:
    shares = shares_of(worlds, MANY, 0)
    off = estimate(worlds, Estimator(False, True, 1.2), logps, shares) - worth(worlds, logps)
    assert float(off.abs().min()) > 1e-4


def test_shares_of_pairs_are_probabilities_and_counts_come_close(worlds) -> None:
    expected = shares_of(worlds, MANY, 0)
    torch.testing.assert_close(expected.sum(1), torch.ones(len(expected), dtype=torch.float64))
    off = {count: float((shares_of(worlds, count, 0) - expected).square().mean().sqrt()) for count in (100, 10_000)}
    assert off[10_000] == pytest.approx(off[100] / 10, rel=0.3)


@pytest.mark.parametrize("estimator", [Estimator(False), Estimator(None, True), Estimator(False, False)])
def test_the_direction_without_a_clip_is_the_best_policy_of_the_estimate(worlds, estimator) -> None:
    """No policy near it, at the KL that it has, is worth more by the estimate."""
    shares = shares_of(worlds, 300, 1)
    scores = direction(worlds, estimator, shares)
    best = estimate(worlds, estimator, at_kl(worlds, scores), shares)
    for seed in range(5):
        near = scores + 0.1 * scores.std(1, keepdim=True) * random(*scores.shape, seed=seed)
        assert (estimate(worlds, estimator, at_kl(worlds, near), shares) <= best + 1e-7).all()


@pytest.mark.slow
def test_a_clip_that_clips_nothing_climbs_to_the_same_policy(worlds) -> None:
    shares = shares_of(worlds, MANY, 0)
    climbed, best = (at_kl(worlds, direction(worlds, Estimator(False, True, clip), shares)) for clip in (1e9, math.inf))
    assert float((worth(worlds, best) - worth(worlds, climbed)).abs().max()) < 1e-4


def test_policies_are_compared_at_the_same_kl(worlds, logps) -> None:
    start = worlds.ref_logps[:, 0]
    within = -start.amin(1) > KL
    kl = (logps.exp() * (logps - start)).sum(1)
    torch.testing.assert_close(kl[within], torch.full_like(kl[within], KL), rtol=1e-4, atol=0)


def test_dpo_finds_the_rewards_of_preferences_that_have_some(worlds) -> None:
    transitive = worlds._replace(preferred=worlds.liked)
    rewards = dpo(shares_of(transitive, MANY, 0))
    apart = rewards[:, PAIRS[:, 0]] - rewards[:, PAIRS[:, 1]]
    assert float((apart.sigmoid() - worlds.liked.flatten(1)).abs().max()) < 0.05


def test_the_objective_is_the_kl_less_the_estimate() -> None:
    rewards, logps, ref = random(3, Y), random(3, Y, seed=1).log_softmax(1), random(3, Y, seed=2).log_softmax(1)
    pair = torch.tensor([[0, 3], [4, 1], [2, 0]])
    judged = bradley_terry(rewards, pair)
    assert float(judged[0, 1, 1]) == pytest.approx(float(torch.sigmoid(rewards[0, 1] - rewards[0, 3])))
    kl = (logps.exp() * (logps - ref)).sum(1)
    asked = DoublyRobust(rewards, beta=0.7, clip=1.5)
    worths = (value(logps, pair, ref.gather(1, pair), judged, clip=1.5), direct(logps, judged))
    for one, worth_of_it in zip((asked, replace(asked, corrects=False)), worths, strict=True):
        torch.testing.assert_close(loss_of(one, logps, ref, pair, rewards), 0.7 * kl - worth_of_it)


@pytest.fixture(scope="module")
def small() -> World:
    return make_world(WorldSettings(96), seed=11)


@pytest.mark.slow
def test_all_completions_are_scored_beside_the_pair_and_as_the_pair_is(small) -> None:
    found = scores_by_model(small, ["single", "single+all"], seed=0)
    scored = found["single+all"]
    assert scored.candidates.shape == (96, 2 + COMPLETIONS)
    both = small.candidates[:, :2].numpy()
    rows = torch.arange(96)[:, None].numpy()
    torch.testing.assert_close(scored.candidates[:, 2:][rows, both], scored.candidates[:, :2])
    same = score(small, "single", 0)
    assert (found["single"].rewards.chosen == same.rewards.chosen).all()


def test_an_arm_of_the_laboratory_learns_what_the_judge_likes(small) -> None:
    """And an arm beside it is what it was."""
    plain = ArmData(torch.ones(96), torch.zeros(96))
    settings = TrainSettings(hidden=0, steps=8, batch=96)
    gold = small.train.gold.float()
    arms = [replace(plain, doubly_robust=DoublyRobust(sign * gold, corrects=False)) for sign in (1, -1)]
    features, ref = small.train.features[None], small.train.ref_logps[None]
    policies = train([small], [[plain, *arms]], settings, 0)
    likes = (policies.log_probs(features, ref).detach().exp() * gold).sum(3).mean(2)[0]
    at_start = float((ref.exp() * gold).sum(2).mean())
    assert float(likes[1]) > at_start > float(likes[2])
    alone = train([small], [[plain]], settings, 0)
    torch.testing.assert_close(policies.log_probs(features, ref)[:, :1], alone.log_probs(features, ref))


def test_the_objective_of_iwpo_train_is_that_of_the_laboratory_where_candidates_are_all_responses() -> None:
    logps, rewards = random(3, Y, seed=5).log_softmax(1), random(3, Y, seed=6)
    uniform = torch.full_like(logps, -math.log(Y))
    order = torch.tensor([[0, 3], [4, 1], [2, 0]])
    asked = DoublyRobust(rewards, beta=0.3, clip=1.5)
    leaf = logps.clone().requires_grad_()
    expected = loss_of(asked, leaf, uniform, order, rewards)
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)

    own = logps.clone().requires_grad_()
    found = drpo(_as_candidates(own, uniform, rewards, order), beta=0.3, clip=1.5)
    torch.testing.assert_close(found, expected)
    (of_ours,) = torch.autograd.grad(found.sum(), own)
    # Ours is of probabilities relative to those of the candidates, whose sum no gradient changes.
    differences = [g - logps.exp() * g.sum(1, keepdim=True) for g in (of_ours, gradient)]
    torch.testing.assert_close(*differences)


def _as_candidates(logps: Tensor, reference: Tensor, rewards: Tensor, pair: Tensor) -> Pair:
    """Rows whose candidates are all responses."""
    others = torch.stack([torch.tensor([k for k in range(Y) if k not in row]) for row in pair.tolist()])
    sides = [
        Side(
            logp=logps.gather(1, which)[:, 0],
            tokens=torch.ones(len(pair)),
            ref_logp=reference.gather(1, which)[:, 0],
            rewards=rewards.gather(1, which),
        )
        for which in pair.split(1, dim=1)
    ]
    of_others = [values.gather(1, others).reshape(-1) for values in (logps, reference, rewards)]
    place = torch.arange(others.numel())
    return Pair(*sides, between=Between(of_others[0], place, Y - 2, of_others[1], of_others[2]))
