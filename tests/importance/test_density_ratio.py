from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from importance_cases import FULL, by_method, make_rewards

from iwpo_fast.importance import pair_weights
from iwpo_fast.importance.density_ratio import log_alpha_ratio, pair_risk


def test_the_kl_ratio_of_scale_one_is_irpss_with_the_label_probability_alone() -> None:
    """exp(-softplus(-Δ)) = σ(Δ)."""
    rewards = make_rewards(0)
    ratio = pair_weights(rewards, by_method("density_ratio"), seed=0).weight
    irpss = pair_weights(rewards, replace(FULL, tau=np.inf, gamma=1.0), seed=0).weight
    np.testing.assert_allclose(ratio, irpss, rtol=1e-12)


def test_the_kl_ratio_falls_by_a_factor_e_over_its_scale() -> None:
    rewards = make_rewards(1, clusters=1)
    weight = pair_weights(rewards, by_method("density_ratio", ratio_scale=2.5, truncate=np.inf), seed=0).weight
    log_weight = np.log(weight) + pair_risk(rewards) / 2.5
    np.testing.assert_allclose(log_weight, log_weight[0], rtol=1e-10)


@pytest.mark.parametrize("scale", [0.3, 1.0, 10.0])
def test_rejection_of_order_three_is_linear_in_the_risk_down_to_zero(scale: float) -> None:
    """ρ = (b - ℓ/λ)_+, with b in closed form from the number of kept pairs."""
    rewards = make_rewards(2)
    settings = by_method("rejection", ratio_scale=scale, truncate=np.inf)
    weight = pair_weights(rewards, settings, seed=0).weight
    for k in range(rewards.clusters):
        inside = rewards.cluster == k
        risk = np.logaddexp(0, -rewards.gap[inside]) / scale
        ordered = np.sort(risk)
        levels = (len(risk) + np.cumsum(ordered)) / np.arange(1, len(risk) + 1)
        b = levels[np.flatnonzero(levels > ordered)[-1]]
        np.testing.assert_allclose(weight[inside], np.maximum(b - risk, 0), rtol=1e-9, atol=1e-12)
    assert np.any(weight == 0) == (scale < 10)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0, 6.0])
def test_the_alpha_ratio_has_its_form_and_mean_one(alpha: float) -> None:
    rewards = make_rewards(3, clusters=1)
    risk = pair_risk(rewards)
    ratio = np.exp(log_alpha_ratio(risk, rewards.cluster, 1, scale=0.7, alpha=alpha))
    assert ratio.mean() == pytest.approx(1, rel=1e-9)
    kept = ratio > 0
    b = 2 / (alpha - 1) * ratio[kept] ** ((alpha - 1) / 2) + risk[kept] / 0.7
    np.testing.assert_allclose(b, b[0], rtol=1e-10)
    assert np.all(risk[~kept] / 0.7 >= b[0] * (1 - 1e-10))


def test_the_alpha_ratio_tends_to_the_kl_ratio_as_alpha_tends_to_one() -> None:
    rewards = make_rewards(4)
    alpha = pair_weights(rewards, by_method("rejection", ratio_alpha=1.001), seed=0).weight
    kl = pair_weights(rewards, by_method("density_ratio"), seed=0).weight
    np.testing.assert_allclose(alpha, kl, atol=0.01)
