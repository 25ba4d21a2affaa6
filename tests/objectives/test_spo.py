"""SPO's losses: slow forms, what they become in special cases, and the policy at which they are least."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import pytest
import torch
from objective_cases import losses, losses_and_gradients, mixture_of, random_pair
from torch import Tensor

from iwpo_fast.objectives import Pair, Side
from iwpo_fast.objectives.pair import Between
from iwpo_fast.objectives.spo import best_of, plausibility, ranked

ALPHA = 0.7


def random_logps(prompts: int = 5, completions: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -5 * torch.rand(prompts, completions, generator=generator, dtype=torch.float64)


def ranked_slowly(row: list[float], alpha: float) -> float:
    """One prompt: each completion in turn is the best of those that are left."""
    total = 0.0
    for k in range(len(row)):
        chances = [math.exp(alpha * l) for l in row[k:]]  # noqa: E741
        total -= math.log(chances[0] / sum(chances)) / alpha
    return total


def test_a_pair_is_its_slow_form() -> None:
    pair = random_pair(1, pairs=8)
    found = losses(mixture_of("spo_pairs", alpha=ALPHA, mu=0.4), pair)
    for i in range(8):
        w, l = pair.chosen, pair.rejected  # noqa: E741
        chances = [math.exp(ALPHA * float(side.logp[i])) for side in (w, l)]
        of_token = [math.exp(float(side.logp[i] / side.tokens[i])) for side in (w, l)]
        weight = math.sqrt(of_token[0] * of_token[1]) ** 0.4
        assert float(found[i]) == pytest.approx(-weight / ALPHA * math.log(chances[0] / sum(chances)))


def test_the_weight_is_symmetric_positive_and_least_for_improbable_pairs() -> None:
    pair = random_pair(2, pairs=20)
    weight = plausibility(pair, 0.5)
    assert torch.equal(weight, plausibility(pair.swapped(), 0.5)) and ((weight > 0) & (weight < 1)).all()
    less = Pair(Side(pair.chosen.logp - 3, pair.chosen.tokens), Side(pair.rejected.logp - 3, pair.rejected.tokens))
    assert (plausibility(less, 0.5) < weight).all()


def test_the_weight_has_no_gradient_and_none_is_bitwise_the_plain_loss() -> None:
    pair = random_pair(3, pairs=20)
    plain = losses_and_gradients(mixture_of("spo_pairs", alpha=ALPHA), pair)
    weighed = losses_and_gradients(mixture_of("spo_pairs", alpha=ALPHA, mu=0.5), pair)
    factor = plausibility(pair, 0.5)
    for value, expected in zip(weighed, plain, strict=True):
        torch.testing.assert_close(value, factor * expected)
    for name in ("spo", "spo_pairs"):
        given, none = (losses_and_gradients(mixture_of(name, alpha=ALPHA, **mu), pair) for mu in ({"mu": 0.0}, {}))
        assert all(a.equal(b) for a, b in zip(given, none, strict=True))


def test_spo_is_the_pairs_and_a_penalty_on_their_completions() -> None:
    pair = random_pair(4)
    penalty = (pair.chosen.log_ratio**2 + pair.rejected.log_ratio**2) / 4
    found = losses(mixture_of("spo", 0.3, alpha=ALPHA, mu=0.2), pair)
    torch.testing.assert_close(found, losses(mixture_of("spo_pairs", alpha=ALPHA, mu=0.2), pair) + 0.3 * penalty)


def test_ranked_is_its_slow_form_and_its_gradient_that_of_differences() -> None:
    logps = random_logps()
    torch.testing.assert_close(ranked(logps, ALPHA).tolist(), [ranked_slowly(row, ALPHA) for row in logps.tolist()])
    assert torch.autograd.gradcheck(lambda values: ranked(values, ALPHA), logps.requires_grad_())


def test_best_of_is_a_softmax_and_its_gradient_that_of_differences() -> None:
    logps, best = random_logps(), torch.tensor([0, 3, 1, 2, 0])
    expected = [-math.log(float((ALPHA * row).softmax(0)[k])) / ALPHA for row, k in zip(logps, best, strict=True)]
    torch.testing.assert_close(best_of(logps, best, ALPHA).tolist(), expected)
    assert torch.autograd.gradcheck(lambda values: best_of(values, best, ALPHA), logps.requires_grad_())


@pytest.mark.parametrize("name", ["spo_best", "spo_ranked"])
def test_of_two_completions_all_forms_are_the_pair(name: str) -> None:
    pair = random_pair(5)
    expected = losses_and_gradients(mixture_of("spo_pairs", alpha=ALPHA), pair)
    for value, of_pair in zip(losses_and_gradients(mixture_of(name, alpha=ALPHA), pair), expected, strict=True):
        torch.testing.assert_close(value, of_pair)


def first_of(logps: Tensor, alpha: float, there: Tensor | None) -> Tensor:
    return best_of(logps, torch.zeros(len(logps), dtype=torch.int64), alpha, there)


@pytest.mark.parametrize("form", [ranked, first_of])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_absent_completions_change_nothing_and_have_no_gradient(form, dtype) -> None:
    logps = random_logps().to(dtype)
    there = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0]]).bool()
    given = torch.where(there, logps, -1e3).requires_grad_()
    found = form(given, ALPHA, there)
    alone = [form(row[kept][None], ALPHA, None) for row, kept in zip(logps, there, strict=True)]
    torch.testing.assert_close(found, torch.cat(alone))
    found.sum().backward()
    assert given.grad.isfinite().all() and (given.grad[~there] == 0).all() and (given.grad[there] != 0).any()


def test_completions_between_stand_in_their_order_between_chosen_and_rejected() -> None:
    pair = random_pair(6, pairs=3)
    between = Between(torch.tensor([-1.0, -2.0, -3.0]).double(), torch.tensor([0, 1, 4]), 2)
    logps, there = Pair(pair.chosen, pair.rejected, between=between).in_order()
    assert there.tolist() == [[True, True, True, True], [True, False, False, True], [True, True, False, True]]
    assert logps[0, 1:3].tolist() == [-1.0, -2.0] and logps[2, 1] == -3.0
    assert torch.equal(logps[:, 0], pair.chosen.logp) and torch.equal(logps[:, -1], pair.rejected.logp)


def stationary(alpha: float, loss, rewards: Tensor) -> Tensor:
    """The gradient of an expected loss by the logits of the policy softmax(r/α)."""
    logits = (rewards / alpha).requires_grad_()
    loss(logits.log_softmax(0)).backward()
    return logits.grad


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_under_bradley_terry_and_plackett_luce_all_are_stationary_at_the_softmax_of_rewards(alpha: float) -> None:
    rewards = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0]).double()
    first, second = torch.tensor(list(permutations(range(5), 2))).T
    wins = torch.sigmoid(rewards[first] - rewards[second])

    def of_pairs(logps: Tensor, mu: float, asymmetric: bool = False) -> Tensor:
        pair = Pair(Side(logps[first], tokens[first]), Side(logps[second], tokens[second]))
        weight = pair.chosen.logp.detach().exp() if asymmetric else 1.0
        return (wins * weight * mixture_of("spo_pairs", alpha=alpha, mu=mu)(pair, {})).sum()

    orders = torch.tensor(list(permutations(range(5), 3)))
    chances = torch.exp(-ranked(rewards[orders], 1.0))
    groups = torch.tensor(list(combinations(range(5), 3)))

    def of_bests(logps: Tensor) -> Tensor:
        each = [best_of(logps[groups], torch.full((len(groups),), k), alpha) for k in range(3)]
        return (rewards[groups].softmax(1) * torch.stack(each, 1)).sum()

    for loss in (
        lambda logps: of_pairs(logps, 0.0),
        lambda logps: of_pairs(logps, 1.5),
        lambda logps: (chances * ranked(logps[orders], alpha)).sum(),
        of_bests,
    ):
        assert stationary(alpha, loss, rewards).abs().max() < 1e-12
    # A weight by the preferred one alone would move it.
    assert stationary(alpha, lambda logps: of_pairs(logps, 0.0, asymmetric=True), rewards).abs().max() > 1e-3
