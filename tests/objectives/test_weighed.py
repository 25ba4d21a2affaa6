"""Objectives that weigh pairs by the policy's margin: slow forms of both, and what they become in special cases."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_cases import at_reference, losses, losses_and_gradients, mixture_of, random_pair

from iwpo_fast.objectives import Pair


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def uni_dpo_slowly(pair: Pair, i: int, beta: float, *, eta: float, tau: float, gamma: float, nll: float) -> float:
    """One pair at a time, written as in the authors' paper and code; r_0 is 0."""
    w, l = pair.chosen, pair.rejected  # noqa: E741
    reward = [float(side.rewards[i].mean()) for side in (w, l) if side.rewards is not None]
    policy = [float(side.logp[i] / side.tokens[i]) for side in (w, l)]
    reference = [float(side.ref_logp[i] / side.tokens[i]) for side in (w, l) if side.ref_logp is not None]
    quality = sigmoid(eta * (reward[0] - reward[1]))
    performance = (1 - sigmoid(beta * (policy[0] - policy[1]) - tau)) ** gamma
    margin = policy[0] - reference[0] - policy[1] + reference[1]
    loss = -quality * performance * math.log(sigmoid(beta * margin))
    return loss - nll * policy[0] if reference[0] > policy[0] and reward[0] >= 0 else loss


def mwpo_slowly(pair: Pair, i: int, beta: float, *, scale: float, shorter: float) -> float:
    s = [float(side.s[i]) for side in (pair.chosen, pair.rejected)]
    tokens = [float(side.tokens[i]) for side in (pair.chosen, pair.rejected)]
    by_margin = sigmoid(scale * beta * (s[0] / tokens[0] - s[1] / tokens[1])) ** 0.625
    by_length = sigmoid(shorter * (tokens[1] - tokens[0])) ** 0.375
    return -by_margin * by_length * math.log(sigmoid(beta * (s[0] - s[1])))


def test_uni_dpo_is_its_slow_form() -> None:
    pair = random_pair(3, pairs=20)
    settings = {"eta": 0.7, "tau": 0.5, "gamma": 2.0, "nll": 0.3}
    expected = [uni_dpo_slowly(pair, i, 0.8, **settings) for i in range(20)]
    below = (pair.chosen.log_ratio < 0) & (pair.chosen.reward >= 0)
    assert below.any() and not below.all()
    torch.testing.assert_close(losses(mixture_of("uni_dpo", 0.8, **settings), pair), torch.tensor(expected).double())


def test_mwpo_is_its_slow_form() -> None:
    pair = random_pair(4, pairs=20)
    expected = [mwpo_slowly(pair, i, 0.3, scale=2.0, shorter=0.2) for i in range(20)]
    found = losses(mixture_of("mwpo", 0.3, scale=2.0, shorter=0.2), pair)
    torch.testing.assert_close(found, torch.tensor(expected).double())


def test_uni_dpo_with_equal_weights_is_half_of_length_normalised_dpo() -> None:
    pair = random_pair()
    even = losses_and_gradients(mixture_of("uni_dpo", 0.3, eta=0.0, gamma=0.0, nll=0.0), pair)
    plain = losses_and_gradients(mixture_of("sigmoid_norm", 0.3), pair)
    for found, expected in zip(even, plain, strict=True):
        torch.testing.assert_close(found, expected / 2)


def test_mwpo_with_equal_weights_is_half_of_dpo() -> None:
    pair = random_pair()
    even = losses_and_gradients(mixture_of("mwpo", 0.3, scale=0.0, shorter=0.0), pair)
    plain = losses_and_gradients(mixture_of("sigmoid", 0.3), pair)
    for found, expected in zip(even, plain, strict=True):
        torch.testing.assert_close(found, expected / 2)


def test_the_weight_of_mwpo_has_no_gradient() -> None:
    pair = random_pair()
    loss, *gradients = losses_and_gradients(mixture_of("mwpo", 0.3, scale=2.0), pair)
    plain, *plain_gradients = losses_and_gradients(mixture_of("sigmoid", 0.3), pair)
    for found, expected in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(found, loss / plain * expected)


@pytest.mark.parametrize(("alpha", "reads_lengths"), [(0.0, True), (1.0, False)])
def test_an_end_of_the_mixture_of_mwpo_reads_one_of_the_two(alpha: float, reads_lengths: bool) -> None:
    """Where policy and reference agree, and the rejected completion has twice the tokens."""
    pair = random_pair()
    tokens = torch.full_like(pair.chosen.tokens, 4.0)
    equal = Pair(replace(pair.chosen, tokens=tokens), replace(pair.rejected, tokens=tokens))
    longer = replace(equal, rejected=replace(equal.rejected, tokens=2 * tokens))
    still = at_reference(longer)
    plain = losses(mixture_of("sigmoid", 0.3), still)
    weight = losses(mixture_of("mwpo", 0.3, alpha=alpha, shorter=0.5), still) / plain
    expected = sigmoid(0.5 * 4.0) if reads_lengths else 0.5
    torch.testing.assert_close(weight, torch.full_like(weight, expected))
