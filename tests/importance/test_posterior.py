"""Labels and rewards as evidence of the same gap, and importance among the candidates of a prompt."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit, log_expit

from iwpo_fast.importance.posterior import (
    candidate_importance,
    flip_probability,
    posterior_shift,
)

GAPS = np.array([-8.0, -3.0, -1.0, -0.2, 0.0, 0.5, 2.0, 5.0, 9.0])


def integral(gap: float, scale: float, factor) -> float:
    """E[factor(Δ) σ(Δ)] / E[σ(Δ)] under N(gap, scale²), by adaptive quadrature."""

    def density(delta: float) -> float:
        return np.exp(log_expit(delta) - 0.5 * ((delta - gap) / scale) ** 2)

    ends, points = (gap - 12 * scale, gap + 12 * scale + scale**2), (0.0, gap)
    over = quad(lambda delta: factor(delta) * density(delta), *ends, points=points, limit=500)[0]
    return over / quad(density, *ends, points=points, limit=500)[0]


@pytest.mark.parametrize("scale", [0.05, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_flips_are_the_posterior_expectation(scale: float) -> None:
    expected = [integral(gap, scale, lambda delta: expit(-delta)) for gap in GAPS]
    np.testing.assert_allclose(flip_probability(GAPS, scale**2), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_shift_is_that_of_the_posterior_mean(scale: float) -> None:
    expected = [integral(gap, scale, lambda delta: delta) - gap for gap in GAPS]
    found = posterior_shift(flip_probability(GAPS, scale**2), scale**2)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_without_error_the_rewards_alone_decide() -> None:
    np.testing.assert_allclose(flip_probability(GAPS, 0.0), expit(-GAPS), rtol=1e-12)
    np.testing.assert_allclose(flip_probability(GAPS, 1e-8), expit(-GAPS), rtol=1e-8)


def test_with_infinite_error_labels_stay_as_they_are() -> None:
    assert (flip_probability(GAPS, np.inf) == 0.0).all()
    assert 7e-5 < flip_probability(GAPS, 1e8).max() < 9e-5  # 2 φ(0) / s


def test_the_wide_form_continues_the_quadrature() -> None:
    narrow, wide = flip_probability(GAPS, 49.99**2), flip_probability(GAPS, 50.01**2)
    np.testing.assert_allclose(wide, narrow, rtol=5e-4)


def test_a_gap_many_errors_below_zero_is_followed_to_its_peak() -> None:
    gap, scale = -300.0, 20.0

    def density(delta: float) -> float:
        return np.exp(log_expit(delta) - 0.5 * ((delta - gap) / scale) ** 2 + 0.5 * (gap / scale) ** 2)

    ends = {"a": -60, "b": 120, "points": (0.0,), "limit": 500}
    over = quad(lambda delta: expit(-delta) * density(delta), **ends)[0]
    expected = over / quad(density, **ends)[0]
    np.testing.assert_allclose(flip_probability(np.array([gap]), scale**2), expected, rtol=1e-6)


def test_flips_fall_with_the_gap_and_are_finite_for_extreme_ones() -> None:
    gaps = np.array([-1e4, -300.0, -20.0, -1.0, 0.0, 1.0, 20.0, 300.0, 1e4])
    for variance in (0.0, 0.3, 4.0, 400.0, 1e4):
        flip = flip_probability(gaps, variance)
        assert np.all((flip >= 0) & (flip <= 1))
        assert np.all(np.diff(flip) <= 0)


def test_chunks_give_what_one_pass_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = np.linspace(-4, 4, 501)
    whole = flip_probability(gaps, 2.0)
    monkeypatch.setattr("iwpo_fast.importance.posterior.CHUNK", 1000)
    assert np.array_equal(flip_probability(gaps, 2.0), whole)


def test_a_negative_variance_is_refused() -> None:
    for variance in (-1.0, np.nan):
        with pytest.raises(ValueError, match="must be 0 or more"):
            flip_probability(GAPS, variance)


PROMPT = np.array([2, 0, 2, 1, 0, 2])
REWARD = np.array([0.5, -1.0, 2.0, 3.0, 1.5, -0.5])


def test_importance_sums_to_one_over_each_prompt() -> None:
    q = candidate_importance(REWARD, PROMPT, tau=0.7)
    np.testing.assert_allclose(np.bincount(PROMPT, q), 1, rtol=1e-14)


def test_a_constant_for_a_prompt_changes_no_importance() -> None:
    level = np.array([7.0, -40.0, 0.25])
    np.testing.assert_allclose(
        candidate_importance(REWARD + level[PROMPT], PROMPT), candidate_importance(REWARD, PROMPT), rtol=1e-12
    )


def test_duplicates_of_a_candidate_share_its_mass_with_the_proposal_that_drew_them() -> None:
    """Drawn twice as often as under the reference, each copy counts half."""
    once = candidate_importance(np.array([1.0, 2.0]), np.zeros(2, int))
    log_ratio = np.array([0.0, np.log(0.5), np.log(0.5)])
    twice = candidate_importance(np.array([1.0, 2.0, 2.0]), np.zeros(3, int), log_ratio=log_ratio)
    np.testing.assert_allclose([twice[0], twice[1] + twice[2]], once, rtol=1e-12)
    assert twice[1] == twice[2]


def test_two_candidates_are_the_soft_label_of_exact_rewards() -> None:
    q = candidate_importance(np.array([1.2, -0.3]), np.zeros(2, int))
    assert q[1] == pytest.approx(flip_probability(np.array([1.5]), 0.0)[0])


def test_importance_is_finite_for_extreme_rewards() -> None:
    q = candidate_importance(np.array([1e4, -1e4, 1e4]), np.array([0, 0, 1]), tau=0.1)
    np.testing.assert_array_equal(q, [1, 0, 1])


def test_importance_recovers_the_target_from_another_proposal() -> None:
    """Tabular: candidates drawn from μ, corrected by log π_ref - log μ, have the target's expectations."""
    rng = np.random.default_rng(0)
    reference, proposal, reward = rng.dirichlet(np.ones(6)), rng.dirichlet(3 * np.ones(6)), rng.normal(size=6)
    target = reference * np.exp(reward / 0.8)
    drawn = rng.choice(6, size=(200, 5000), p=proposal)
    prompt = np.repeat(np.arange(200), 5000)
    log_ratio = np.log(reference / proposal)[drawn.ravel()]
    q = candidate_importance(reward[drawn.ravel()], prompt, tau=0.8, log_ratio=log_ratio)
    found = np.bincount(drawn.ravel(), q) / 200
    np.testing.assert_allclose(found, target / target.sum(), atol=4e-3)


def test_a_temperature_of_none_and_a_prompt_without_importance_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        candidate_importance(REWARD, PROMPT, tau=0.0)
    with pytest.raises(ValueError, match="leave the prompt out"):
        candidate_importance(np.array([-np.inf, 1.0]), np.array([0, 1]))
