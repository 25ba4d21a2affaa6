"""DPO of rankings: a naive form, what it is of two, and what an order may and may not depend on."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from objective_cases import losses, losses_and_gradients, mixture_of, random_pair
from torch import Tensor

from iwpo_fast.objectives import Pair
from iwpo_fast.objectives.pair import Between
from iwpo_fast.objectives.rankings import plackett_luce

BETA = 0.3


def random_values(rows: int = 5, completions: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, completions, generator=generator, dtype=torch.float64)


def naive(row: list[float]) -> float:
    """Minus the log-likelihood of one order: each completion in turn is chosen among those that are left."""
    likelihood = 1.0
    for k in range(len(row)):
        chances = [math.exp(value) for value in row[k:]]
        likelihood *= chances[0] / sum(chances)
    return -math.log(likelihood)


def with_between(pair: Pair, ratios: Tensor) -> Pair:
    """The pairs with further completions [P, n] of these log-ratios, in rank between the two of each."""
    place = torch.arange(ratios.numel())
    reference = torch.full((ratios.numel(),), -7.0, dtype=torch.float64)
    return replace(pair, between=Between(reference + ratios.reshape(-1), place, ratios.shape[1], reference))


def test_the_likelihood_of_an_order_is_its_naive_form_and_its_gradient_that_of_differences() -> None:
    values = random_values()
    torch.testing.assert_close(plackett_luce(values).tolist(), [naive(row) for row in values.tolist()])
    assert torch.autograd.gradcheck(plackett_luce, values.requires_grad_())


def test_orders_of_the_same_completions_exclude_one_another() -> None:
    values = random_values()
    every = torch.tensor(list(permutations(range(4))))
    chances = torch.stack([(-plackett_luce(values[:, order])).exp() for order in every])
    torch.testing.assert_close(chances.sum(0), torch.ones(5, dtype=torch.float64))
    assert len(set(chances[:, 0].tolist())) == len(every)


def test_the_best_alone_is_chosen_as_often_as_its_softmax() -> None:
    values = random_values(completions=3)
    first = [(-plackett_luce(values[:, [0, *rest]])).exp() for rest in ([1, 2], [2, 1])]
    torch.testing.assert_close(first[0] + first[1], values.softmax(1)[:, 0])


def test_a_constant_of_the_prompt_changes_nothing() -> None:
    values = random_values()
    torch.testing.assert_close(plackett_luce(values + 11.0), plackett_luce(values))


def test_of_two_completions_it_is_dpo() -> None:
    pair = random_pair(5)
    expected = losses_and_gradients(mixture_of("sigmoid", BETA), pair)
    for found, of_pair in zip(losses_and_gradients(mixture_of("dpo_ranked", BETA), pair), expected, strict=True):
        torch.testing.assert_close(found, of_pair, rtol=1e-12, atol=1e-12)


def test_the_objective_is_the_naive_form_of_implicit_rewards_from_the_best_to_the_worst() -> None:
    pair, ratios = random_pair(6), random_values(6, 2)
    found = losses_of(pair, ratios)
    for i in range(6):
        row = [pair.chosen.log_ratio[i], *ratios[i], pair.rejected.log_ratio[i]]
        assert float(found[i]) == pytest.approx(naive([BETA * float(value) for value in row]))
    assert not torch.allclose(found, losses_of(pair, ratios.flip(1)))


def losses_of(pair: Pair, ratios: Tensor) -> Tensor:
    return mixture_of("dpo_ranked", BETA)(with_between(pair, ratios), {})


def test_a_ranking_moves_the_completions_between_too_and_their_gradients_sum_to_nothing() -> None:
    pair, ratios = random_pair(7), random_values(6, 2).requires_grad_()
    sides = [replace(side, logp=side.logp.clone().requires_grad_()) for side in (pair.chosen, pair.rejected)]
    total = losses_of(replace(pair, chosen=sides[0], rejected=sides[1]), ratios).sum()
    chosen, rejected, between = torch.autograd.grad(total, [sides[0].logp, sides[1].logp, ratios])
    assert (between != 0).all() and (chosen < 0).all() and (rejected > 0).all()
    torch.testing.assert_close(chosen + rejected + between.sum(1), torch.zeros(6, dtype=torch.float64))


def test_another_divergence_maps_the_log_ratios_of_all() -> None:
    mixture = mixture_of("dpo_ranked", BETA, divergence="js")
    pair, ratios = random_pair(8), random_values(6, 1)
    given = with_between(pair, ratios)
    divergence = mixture.divergence
    of_all = replace(given, between=replace(given.between, divergence=divergence))
    expected = torch.stack([divergence(r) for r in (pair.chosen.log_ratio, ratios[:, 0], pair.rejected.log_ratio)], 1)
    torch.testing.assert_close(losses(mixture, pair), plackett_luce(BETA * expected[:, [0, 2]]))
    sides = {name: replace(getattr(pair, name), divergence=divergence) for name in ("chosen", "rejected")}
    torch.testing.assert_close(mixture(replace(of_all, **sides), {}), plackett_luce(BETA * expected))
