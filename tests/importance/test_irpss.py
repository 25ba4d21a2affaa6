from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from importance_cases import FULL, PURE

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance import PairRewards, pair_weights

UTILITY = torch.tensor([1.0, -0.5, 0.25, 0.0, -1.5], dtype=torch.float64)
REWARD = np.array([0.3, 2.0, -1.0, 0.5, -0.7])


def minimiser(weight: torch.Tensor, utility: torch.Tensor, h: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """h [K, K] that minimises sum_ij P(i over j) W_ij · -log σ(h_ij), P Bradley-Terry of the utilities [K]."""
    likelihood = torch.sigmoid(utility[:, None] - utility[None, :])
    parameter = torch.zeros(len(utility), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [parameter], max_iter=500, tolerance_grad=1e-13, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = -(likelihood * weight * torch.nn.functional.logsigmoid(h(parameter))).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return h(parameter).detach()


def weights_of_all_ordered_pairs(settings: WeightConfig) -> torch.Tensor:
    """W [K, K] with completion i chosen over completion j."""
    chosen, rejected = (grid.ravel() for grid in np.meshgrid(REWARD, REWARD, indexing="ij"))
    rewards = PairRewards(chosen, rejected, np.zeros(chosen.size, dtype=np.int64), np.ones(1))
    weight = pair_weights(rewards, settings, seed=0).weight
    return torch.from_numpy(weight.reshape(len(REWARD), len(REWARD)))


@pytest.mark.parametrize("tau", [0.8, 3.0])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, -1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_the_minimiser_of_the_weighted_loss_is_tilted_by_the_rewards(tau: float, exponent: float, gamma: float) -> None:
    """h = Δ* + (1-λ)(r_1 - r_2)/τ; the probability σ(γΔ) adds γ (r_1 - r_2), as σ(x)/σ(-x) = exp(x)."""
    settings = replace(FULL, tau=tau, gamma=gamma, rejected_exponent=exponent, truncate=np.inf)
    h = minimiser(weights_of_all_ordered_pairs(settings), UTILITY, lambda score: score[:, None] - score[None, :])
    reward = torch.from_numpy(REWARD)
    expected = UTILITY + ((1 - exponent) / tau + gamma) * reward
    torch.testing.assert_close(h, expected[:, None] - expected[None, :], rtol=0, atol=1e-6)


def test_the_rejected_exponent_one_weighs_both_orders_of_a_pair_alike() -> None:
    symmetric = weights_of_all_ordered_pairs(replace(FULL, gamma=0.0, rejected_exponent=1.0, truncate=np.inf))
    torch.testing.assert_close(symmetric, symmetric.T, rtol=1e-14, atol=0)
    assert symmetric.std() > 0.1


def test_importance_resampling_of_uniform_proposals_recovers_the_target_policy() -> None:
    """The weighted frequencies of preferred samples are those of π* ∝ π_ref exp(r/τ)."""
    completions = np.repeat(np.arange(len(REWARD)), [400, 100, 200, 250, 50])
    zero = np.zeros(completions.size, dtype=np.int64)
    rewards = PairRewards(REWARD[completions], np.zeros(completions.size), zero, np.ones(1))
    weight = pair_weights(rewards, PURE, seed=0).weight
    target = np.array([0.4, 0.1, 0.2, 0.25, 0.05]) * np.exp(REWARD / PURE.tau)
    np.testing.assert_allclose(np.bincount(completions, weight) / 1000, target / target.sum(), rtol=1e-12)
