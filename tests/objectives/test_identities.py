"""Objectives that become others, or known numbers, in special cases."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from objective_cases import at_reference, losses, losses_and_gradients, mixture_of, random_pair
from torch import Tensor

from iwpo_fast.objectives import Pair
from iwpo_fast.objectives.distillation import pessimistic
from iwpo_fast.objectives.pair import uncertainty

BETA = 0.3
LOG2 = math.log(2)
AT_REFERENCE = {
    "sigmoid": LOG2,
    "dpo_ranked": LOG2,
    "cdpo": LOG2,
    "robust": LOG2,
    "hinge": 1.0,
    "ipo": 1 / (4 * BETA**2),
    "ipo_sum": 1 / (4 * BETA**2),
    "sigmoid_norm": LOG2,
    "exo_pair": 0.5 * math.log(0.5 / (1 - 1e-3)) + 0.5 * math.log(0.5 / 1e-3),
    "discopop": 0.5 * LOG2 + 0.5,
    "ld_dpo": LOG2,
    "nca_pair": 2 * LOG2,
    "bco_pair": 2 * LOG2,
    "bco": 2 * LOG2,
    "kto": 1.0,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "sppo_hard": 1 / (2 * BETA**2),
    "aot": LOG2,
    "p_dpo": LOG2,
    "beta_dpo": LOG2,
}


def assert_same(first: tuple[Any, dict[str, Any]], second: tuple[Any, dict[str, Any]], pair: Pair) -> None:
    """The same losses and gradients of two objectives, each a name and parameters."""
    actual, expected = (
        losses_and_gradients(mixture_of(name, settings.pop("beta", BETA), **settings), pair)
        for name, settings in (first, second)
    )
    torch.testing.assert_close(actual, expected)


def one_model(pair: Pair) -> Pair:
    return with_rewards(pair, pair.chosen.rewards[:, :1], pair.rejected.rewards[:, :1])


def with_rewards(pair: Pair, chosen: Tensor, rejected: Tensor) -> Pair:
    return Pair(replace(pair.chosen, rewards=chosen), replace(pair.rejected, rewards=rejected))


def with_gap(pair: Pair, gap: float) -> Pair:
    """All models say that the chosen completion is better by `gap`."""
    return with_rewards(pair, pair.rejected.rewards + gap, pair.rejected.rewards)


def with_tokens(pair: Pair, chosen: float, rejected: float) -> Pair:
    ones = torch.ones_like(pair.chosen.tokens)
    return Pair(replace(pair.chosen, tokens=chosen * ones), replace(pair.rejected, tokens=rejected * ones))


@pytest.mark.parametrize("name", AT_REFERENCE)
def test_a_policy_at_its_reference_has_the_known_loss(name: str) -> None:
    settings = {"dropped": 0.0} if name == "beta_dpo" else {}
    actual = losses(mixture_of(name, BETA, **settings), at_reference(random_pair()))
    torch.testing.assert_close(actual, torch.full_like(actual, AT_REFERENCE[name]))


def test_distillation_of_a_gap_of_one_half_is_ipo_times_beta_squared() -> None:
    pair = with_gap(random_pair(), 0.5)
    distilled = losses(mixture_of("d_dpo", BETA), pair)
    torch.testing.assert_close(distilled, BETA**2 * losses(mixture_of("ipo_sum", BETA), pair))


@pytest.mark.parametrize("settings", [{"name": "cdpo"}, {"name": "robust"}], ids=str)
def test_no_flips_leave_dpo(settings: dict[str, str]) -> None:
    assert_same((settings["name"], {"epsilon": 0.0}), ("sigmoid", {}), random_pair())


def test_a_certain_soft_label_leaves_dpo() -> None:
    assert_same(("mmpo", {"scale": 1e6}), ("sigmoid", {}), random_pair())


def test_label_smoothing_of_dpo_is_cdpo() -> None:
    pair = random_pair()
    smoothed = losses_and_gradients(mixture_of("sigmoid", BETA), pair, 0.2)
    torch.testing.assert_close(smoothed, losses_and_gradients(mixture_of("cdpo", BETA, epsilon=0.2), pair))


def test_robust_dpo_is_unbiased_under_flips_of_its_rate() -> None:
    pair, mixture = random_pair(), mixture_of("robust", BETA, epsilon=0.2)
    expected_over_flips = 0.8 * losses(mixture, pair) + 0.2 * losses(mixture, pair.swapped())
    torch.testing.assert_close(expected_over_flips, losses(mixture_of("sigmoid", BETA), pair))


@pytest.mark.parametrize("name", ["e_dpo", "e_dpo_batch"])
def test_an_ensemble_of_one_without_pessimism_is_distillation(name: str) -> None:
    assert_same((name, {"gamma": 0.0}), ("d_dpo", {}), one_model(random_pair()))


@pytest.mark.parametrize("name", ["e_dpo", "e_dpo_batch"])
def test_an_ensemble_of_one_is_distillation_with_the_forward_kl(name: str) -> None:
    assert_same((name, {"gamma": 0.2}), ("dp_dpo", {"gamma": 0.2}), one_model(random_pair()))


def test_an_ensemble_takes_the_nearest_model_of_each_pair_or_of_the_step() -> None:
    pair = random_pair()
    single = torch.stack(
        [
            losses(mixture_of("d_dpo", BETA), with_rewards(pair, pair.chosen.rewards[:, [i]], rewards[:, [i]]))
            for rewards in [pair.rejected.rewards]
            for i in range(3)
        ]
    )
    torch.testing.assert_close(losses(mixture_of("e_dpo", BETA, gamma=0.0), pair), single.amin(0))
    best = single.mean(1).argmin()
    torch.testing.assert_close(losses(mixture_of("e_dpo_batch", BETA, gamma=0.0), pair), single[best])


@pytest.mark.parametrize(
    ("name", "base"), [("p_dpo", "sigmoid"), ("dp_dpo", "d_dpo"), ("e_dpo", "e_dpo"), ("e_dpo_batch", "e_dpo_batch")]
)
def test_pessimism_raises_the_log_probs_of_both_completions(name: str, base: str) -> None:
    without = {"gamma": 0.0} if name == base else {}
    _, by_w, by_l = losses_and_gradients(mixture_of(name, BETA, gamma=0.5), random_pair())
    _, base_by_w, base_by_l = losses_and_gradients(mixture_of(base, BETA, **without), random_pair())
    torch.testing.assert_close(by_w, base_by_w - 0.25)
    torch.testing.assert_close(by_l, base_by_l - 0.25)


def test_reward_aware_regression_is_distillation() -> None:
    assert_same(("rpo_sq", {}), ("d_dpo", {}), random_pair())


def test_reward_aware_kl_has_the_gradient_of_soft_labels_and_no_entropy() -> None:
    pair = random_pair()
    kl, soft = (losses_and_gradients(mixture_of(n, BETA, scale=0.7), pair) for n in ("rpo_bwd_kl", "mmpo"))
    torch.testing.assert_close(kl[1:], soft[1:])
    p = torch.sigmoid(0.7 * pair.reward_gap)
    torch.testing.assert_close(soft[0] - kl[0], -p * p.log() - (1 - p) * (1 - p).log())


@pytest.mark.parametrize("name", ["rpo_sq", "rpo_bwd_kl", "rpo_fwd_kl"])
def test_reward_aware_losses_are_zero_where_policy_and_rewards_agree(name: str) -> None:
    pair = random_pair()
    chosen, rejected = (BETA * side.log_ratio[:, None] for side in (pair.chosen, pair.rejected))
    per_pair, by_w, _ = losses_and_gradients(mixture_of(name, BETA), with_rewards(pair, chosen, rejected))
    torch.testing.assert_close(per_pair, torch.zeros_like(per_pair), atol=1e-12, rtol=0)
    torch.testing.assert_close(by_w, torch.zeros_like(by_w), atol=1e-12, rtol=0)


def test_scaled_dpo_is_dpo_times_the_reward_gap() -> None:
    pair = random_pair().swapped()
    assert (pair.reward_gap < 0).all()
    expected = -pair.reward_gap * losses(mixture_of("sigmoid", BETA), pair)
    torch.testing.assert_close(losses(mixture_of("scaled_dpo", BETA), pair), expected)


def test_an_offset_of_a_unit_gap_leaves_dpo() -> None:
    assert_same(("odpo", {}), ("sigmoid", {}), with_gap(random_pair(), 1.0))
    assert_same(("odpo", {"alpha": 0.0}), ("sigmoid", {}), random_pair())


def test_a_larger_reward_gap_demands_a_larger_margin() -> None:
    small, large = (losses(mixture_of("odpo", BETA), with_gap(random_pair(), gap)) for gap in (0.5, 2.0))
    assert (small < large).all()


def test_whole_tails_leave_dpo() -> None:
    assert_same(("ld_dpo", {"alpha": 1.0}), ("sigmoid", {}), random_pair())


def test_tails_that_count_nothing_do_not_matter() -> None:
    pair = random_pair()
    longer = replace(pair.chosen, logp=pair.chosen.logp - 7, ref_logp=pair.chosen.ref_logp - 3)
    mixture = mixture_of("ld_dpo", BETA, alpha=0.0)
    torch.testing.assert_close(losses(mixture, Pair(longer, pair.rejected)), losses(mixture, pair))


def test_length_regularised_dpo_excuses_longer_chosen_completions() -> None:
    pair = random_pair()
    equal, longer = (losses(mixture_of("r_dpo", BETA, alpha=0.1), with_tokens(pair, n, 5)) for n in (5, 9))
    torch.testing.assert_close(equal, losses(mixture_of("sigmoid", BETA), pair))
    assert (longer < equal).all()


def test_completions_of_one_token_leave_sums_of_averages() -> None:
    pair = with_tokens(random_pair(), 1, 1)
    assert_same(("ipo", {}), ("ipo_sum", {}), pair)
    assert_same(("sigmoid_norm", {}), ("sigmoid", {}), pair)
    assert_same(("simpo", {"gamma": 0.0}), ("cpo", {"alpha": 0.0}), pair)


def test_weights_of_a_policy_that_samples_its_pairs_leave_dpo() -> None:
    pair = random_pair()
    none = torch.zeros_like(pair.chosen.alignment)
    pair = Pair(replace(pair.chosen, alignment=none), replace(pair.rejected, alignment=none))
    assert_same(("wpo", {}), ("sigmoid", {}), pair)


@pytest.mark.parametrize(
    ("name", "base"),
    [("up_dpo_lcb", "sigmoid"), ("up_dpo_pair", "sigmoid"), ("up_dpo_energy", "sigmoid"), ("up_ipo", "ipo_sum")],
)
def test_no_uncertainty_leaves_the_plain_objective(name: str, base: str) -> None:
    assert_same((name, {}), (base, {}), one_model(random_pair()))
    pair = random_pair()
    agreeing = (side.rewards[:, :1].expand(-1, 3) for side in (pair.chosen, pair.rejected))
    assert_same((name, {}), (base, {}), with_rewards(pair, *agreeing))


@pytest.mark.parametrize("name", ["up_dpo_pair", "up_dpo_energy"])
def test_uncertain_pairs_pull_less(name: str) -> None:
    pair = random_pair()
    centred = pair.chosen.rewards - pair.chosen.rewards.mean(-1, keepdim=True)
    pulls = []
    for spread in (0.0, 0.5, 1.0, 2.0):
        uncertain = with_rewards(pair, spread * centred, torch.zeros_like(centred))
        pulls.append(losses_and_gradients(mixture_of(name, BETA), uncertain)[1].abs())
    assert (torch.stack(pulls).diff(dim=0) < 0).all()


def test_a_lower_confidence_bound_asks_less_of_an_uncertain_chosen_and_more_of_an_uncertain_rejected() -> None:
    pair = random_pair()
    spread, none = torch.tensor([[-1.0, 0.0, 1.0]]).double().expand(6, -1), torch.zeros(6, 3).double()
    pulls = [
        losses_and_gradients(mixture_of("up_dpo_lcb", BETA), with_rewards(pair, chosen, rejected))[1].abs()
        for chosen, rejected in ((spread, none), (none, none), (none, spread))
    ]
    assert (pulls[0] < pulls[1]).all()
    assert (pulls[1] < pulls[2]).all()


def test_uncertain_targets_of_ipo_shrink_towards_zero() -> None:
    pair = random_pair()
    u = uncertainty(pair.family_gaps)
    expected = (pair.h - torch.exp(-u / 2) / (2 * BETA)) ** 2
    torch.testing.assert_close(losses(mixture_of("up_ipo", BETA, tau=2.0), pair), expected)


def test_certain_wins_make_sppo_half_of_its_hard_form() -> None:
    pair = with_gap(random_pair(), 1e3)
    torch.testing.assert_close(losses(mixture_of("sppo", BETA), pair), losses(mixture_of("sppo_hard", BETA), pair) / 2)


def test_general_preference_optimisation_with_scores_of_one_half_is_hard_sppo() -> None:
    half = torch.full_like(random_pair().chosen.rewards, 0.5)
    assert_same(("gpo", {}), ("sppo_hard", {}), with_rewards(random_pair(), half, -half))


@pytest.mark.parametrize(("reward", "begins"), [(1.0, 2e6), (5.0, 50e6)])
def test_general_preference_optimisation_begins_at_the_squares_of_its_targets(reward, begins) -> None:
    same = torch.full_like(random_pair().chosen.rewards, reward)
    found = losses(mixture_of("gpo", 1e-3), at_reference(with_rewards(random_pair(), same, -same)))
    torch.testing.assert_close(found, torch.full_like(found, begins))  # as docs/systems/gpm.md has it


def test_length_normalised_general_preference_optimisation_of_single_tokens_is_the_plain_one() -> None:
    pair = random_pair()
    one = torch.ones_like(pair.chosen.tokens)
    short = replace(pair, chosen=replace(pair.chosen, tokens=one), rejected=replace(pair.rejected, tokens=one))
    assert_same(("gpo_norm", {}), ("gpo", {}), short)


def test_a_soft_preference_without_its_penalty_is_the_contrastive_loss_over_alpha() -> None:
    pair = at_reference(random_pair())
    contrastive = losses(mixture_of("cpo", 0.4, alpha=0.0), pair)
    torch.testing.assert_close(losses(mixture_of("spo", BETA, alpha=0.4), pair), contrastive / 0.4)


def test_the_penalty_of_a_soft_preference_pulls_each_completion_to_the_reference() -> None:
    pair = random_pair()
    _, by_w, by_l = losses_and_gradients(mixture_of("spo", 0.5, alpha=0.4), pair)
    _, free_w, free_l = losses_and_gradients(mixture_of("spo", 0.5, alpha=0.4), at_reference(pair))
    torch.testing.assert_close(by_w - free_w, 0.25 * pair.chosen.log_ratio)
    torch.testing.assert_close(by_l - free_l, 0.25 * pair.rejected.log_ratio)


def test_reward_distillation_of_drdo_stands_alone_without_its_likelihood_term() -> None:
    assert_same(("drdo_reference", {"alpha": 0.0}), ("d_dpo", {}), random_pair())


def test_the_likelihood_term_of_drdo_is_the_focal_contrast_of_token_averages() -> None:
    pair = random_pair()
    w, l = pair.chosen.logp / pair.chosen.tokens, pair.rejected.logp / pair.rejected.tokens  # noqa: E741
    contrast = torch.log(w.exp() / (1 - l.exp()))
    focus = (1 - w.exp() / (w.exp() + l.exp())) ** 1.5
    whole = losses(mixture_of("drdo_reference", BETA, alpha=0.7, gamma=1.5), pair)
    torch.testing.assert_close(losses(mixture_of("d_dpo", BETA), pair) - whole, 0.7 * focus * contrast)
    by_head = losses(mixture_of("drdo", alpha=0.0), pair) - losses(mixture_of("drdo", alpha=0.7, gamma=1.5), pair)
    torch.testing.assert_close(by_head, 0.7 * focus * contrast)


def test_likelihood_of_the_chosen_is_the_mean_over_all_their_tokens() -> None:
    pair = random_pair()
    expected = -pair.chosen.logp.sum() / pair.chosen.tokens.sum()
    torch.testing.assert_close(losses(mixture_of("sft"), pair).mean(), expected)


class TestPessimisticRewards:
    rewards = random_pair().chosen.rewards

    def test_a_soft_minimum_lies_between_minimum_and_mean_and_tends_to_both(self) -> None:
        soft = pessimistic(self.rewards, "softmin", 1.0)
        assert (self.rewards.amin(-1) < soft).all()
        assert (soft < self.rewards.mean(-1)).all()
        torch.testing.assert_close(pessimistic(self.rewards, "softmin", 1e-3), self.rewards.amin(-1), atol=2e-3, rtol=0)
        torch.testing.assert_close(pessimistic(self.rewards, "softmin", 1e6), self.rewards.mean(-1), atol=1e-5, rtol=0)

    def test_a_soft_minimum_is_mean_minus_variance_to_second_order(self) -> None:
        strength = 1e3
        expected = self.rewards.mean(-1) - self.rewards.var(-1, correction=0) / (2 * strength)
        torch.testing.assert_close(pessimistic(self.rewards, "softmin", strength), expected, atol=1e-6, rtol=0)

    def test_a_lower_confidence_bound_subtracts_standard_deviations(self) -> None:
        expected = self.rewards.mean(-1) - 2 * self.rewards.std(-1, correction=0)
        torch.testing.assert_close(pessimistic(self.rewards, "lcb", 2.0), expected)

    @pytest.mark.parametrize("how", ["mean", "min", "lcb", "softmin"])
    def test_every_aggregate_of_one_model_is_its_reward(self, how: str) -> None:
        pair = one_model(random_pair())
        torch.testing.assert_close(
            losses(mixture_of("d_dpo", BETA, aggregate=how), pair), losses(mixture_of("d_dpo", BETA), pair)
        )

    def test_the_least_gap_is_not_the_gap_of_least_rewards(self) -> None:
        pair = random_pair()
        least_gap = (pair.chosen.rewards - pair.rejected.rewards).amin(-1)
        of_least = pair.chosen.rewards.amin(-1) - pair.rejected.rewards.amin(-1)
        torch.testing.assert_close(losses(mixture_of("d_dpo_min_gap", BETA), pair), (BETA * pair.h - least_gap) ** 2)
        least_rewards = losses(mixture_of("d_dpo", BETA, aggregate="min"), pair)
        torch.testing.assert_close(least_rewards, (BETA * pair.h - of_least) ** 2)
        assert (least_gap != of_least).any()


def test_the_contrastive_loss_adds_the_likelihood_of_the_chosen() -> None:
    pair = random_pair()
    contrast, whole = (losses(mixture_of("cpo", BETA, alpha=alpha), pair) for alpha in (0.0, 0.5))
    torch.testing.assert_close(whole, contrast + 0.5 * losses(mixture_of("sft"), pair))


def test_the_weight_of_wpo_is_the_product_of_both_sides_up_to_its_clamp() -> None:
    pair = random_pair()
    product = torch.exp(pair.chosen.alignment + pair.rejected.alignment)
    assert (product > 0.9).any()
    assert (product < 0.9).any()
    expected = product.clamp(max=0.9) * losses(mixture_of("sigmoid", BETA), pair)
    torch.testing.assert_close(losses(mixture_of("wpo", BETA, clamp=0.9), pair), expected)
