"""What moving the mass of a distribution costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from iwpo_fast.rewards.transport import by_sinkhorn, on_a_line


def two(d: int, rows: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(d)
    p, q = (torch.from_numpy(draw.dirichlet(np.full(d, 0.7), rows)) for _ in range(2))
    return p, q


def naive(p: np.ndarray, q: np.ndarray, cost: np.ndarray) -> float:
    """min over T >= 0 of <T, C> with T 1 = p and Tᵀ 1 = q, as a linear program."""
    d = len(p)
    sums = np.concatenate([np.kron(np.eye(d), np.ones(d)), np.kron(np.ones(d), np.eye(d))])
    found = linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([p, q]), bounds=(0, None))
    return float(found.fun)


@pytest.mark.parametrize("d", [2, 3, 6])
def test_the_closed_form_on_a_line_is_the_least_cost_of_any_plan(d) -> None:
    p, q = two(d)
    values = torch.from_numpy(np.sort(np.random.default_rng(0).normal(size=d)))
    found = on_a_line(p, q, values)
    cost = np.abs(values.numpy()[:, None] - values.numpy())
    for i in range(len(p)):
        assert found[i].item() == pytest.approx(naive(p[i].numpy(), q[i].numpy(), cost), abs=1e-9)
        assert found[i].item() == pytest.approx(wasserstein_distance(values, values, p[i], q[i]), abs=1e-9)


def test_with_two_categories_it_is_the_difference_of_probabilities_times_the_gap() -> None:
    p, q = two(2)
    torch.testing.assert_close(on_a_line(p, q, torch.tensor([1.0, 4.0])), 3 * (p[:, 1] - q[:, 1]).abs())


def test_sinkhorn_comes_near_the_least_cost_for_any_cost_and_is_0_where_nothing_moves() -> None:
    p, q = (part.clamp(min=1e-9) for part in two(4))
    draw = np.random.default_rng(3)
    cost = draw.random((4, 4))
    cost = (cost + cost.T) * (1 - np.eye(4)) / 2
    found = by_sinkhorn(p, q, torch.from_numpy(cost))
    expected = [naive(a, b, cost) for a, b in zip(p.numpy() / p.sum(-1, keepdim=True).numpy(), q.numpy(), strict=True)]
    np.testing.assert_allclose(found, expected, atol=0.03)
    torch.testing.assert_close(by_sinkhorn(p, p, torch.from_numpy(cost)), torch.zeros(5, dtype=torch.float64))


def test_gradients_of_sinkhorn_are_differences_of_its_value() -> None:
    p, q = (part.clamp(min=1e-3) for part in two(3, rows=1))
    cost = (torch.arange(3.0)[:, None] - torch.arange(3.0)).square().double() / 4
    logits = q.log().requires_grad_()

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return by_sinkhorn(p / p.sum(-1, keepdim=True), logits.softmax(-1), cost, blur=0.1, iterations=2000).sum()

    (gradient,) = torch.autograd.grad(loss(logits), logits)
    for k in range(3):
        step = torch.zeros_like(q)
        step[0, k] = 1e-5
        slope = (loss(logits.detach() + step) - loss(logits.detach() - step)) / 2e-5
        assert gradient[0, k].item() == pytest.approx(slope.item(), abs=1e-5)


def test_cross_entropy_does_not_know_which_categories_are_near_and_transport_does() -> None:
    p, near, far = (torch.tensor([row]) for row in ([0.9, 0.1, 0.0], [0.9, 0.0, 0.1], [0.0, 0.1, 0.9]))
    values = torch.arange(3.0)
    assert on_a_line(p, near, values) == pytest.approx(0.1, abs=1e-6)
    assert on_a_line(p, far, values) == pytest.approx(1.8, abs=1e-6)


def test_of_single_votes_transport_finds_the_majority_and_cross_entropy_the_shares() -> None:
    """Why a target needs several votes: the least mean distance is at the median of the votes."""
    votes, values = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 3), torch.arange(2.0)
    share = torch.linspace(0.001, 0.999, 999)
    found = torch.stack([1 - share, share], -1)[:, None]
    transport = on_a_line(votes, found.expand(-1, 5, -1), values).mean(-1)
    cross_entropy = -(votes * found.log()).sum(-1).mean(-1)
    assert share[transport.argmin()].item() == pytest.approx(0.999)
    assert share[cross_entropy.argmin()].item() == pytest.approx(0.6)
