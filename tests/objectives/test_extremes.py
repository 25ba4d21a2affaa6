"""Losses and gradients stay finite where the policy has left the reference far behind."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from objective_cases import at_log_ratios, losses, mixture_of, random_pair, with_divergence, with_logps
from torch import Tensor

from iwpo_fast.objectives import OBJECTIVES, Mixture, Pair
from iwpo_fast.objectives.reference_free import log1mexp

SIGNS = torch.tensor(list(product([-1.0, 0.0, 1.0], repeat=2)), dtype=torch.float64)
TRANSFORMED = sorted(name for name, o in OBJECTIVES.items() if o.uses_reference and o.transforms)


def pairs_at(size: float) -> Pair:
    return at_log_ratios(*(size * SIGNS).T)


def assert_finite_in(dtype: torch.dtype, mixture: Mixture, pair: Pair) -> None:
    """Log-probs arrive in `dtype`; the objective runs in float64, and its gradients go back to `dtype`."""
    w, l = (side.logp.to(dtype).requires_grad_() for side in (pair.chosen, pair.rejected))  # noqa: E741
    per_pair = losses(mixture, with_logps(pair, w.double(), l.double()))
    assert per_pair.to(dtype).isfinite().all(), per_pair
    for gradient in torch.autograd.grad(per_pair.sum(), (w, l), allow_unused=True, materialize_grads=True):
        assert gradient.dtype == dtype
        assert gradient.isfinite().all(), gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_log_ratios_of_ten_thousand_stay_finite(name: str, dtype: torch.dtype) -> None:
    assert_finite_in(dtype, mixture_of(name), pairs_at(1e4))


@pytest.mark.parametrize("size", [200.0, 1e4])
@pytest.mark.parametrize(("divergence", "alpha"), [("forward_kl", None), ("js", None), ("alpha", 0.5), ("alpha", 2.0)])
@pytest.mark.parametrize("name", TRANSFORMED)
def test_divergences_of_large_log_ratios_stay_finite(
    name: str, divergence: str, alpha: float | None, size: float
) -> None:
    mixture = mixture_of(name, divergence=divergence, divergence_alpha=alpha)
    assert_finite_in(torch.float32, mixture, pairs_at(size))


@pytest.mark.parametrize("tau", [0.05, 1.0, 5.0])
def test_discopop_stays_finite_and_right_at_large_margins(tau: float) -> None:
    z = torch.tensor([-200.0, 200.0], dtype=torch.float64)
    mixture = mixture_of("discopop", 1.0, tau=tau)
    assert_finite_in(torch.float32, mixture, at_log_ratios(z, torch.zeros_like(z)))
    if tau < 1:
        expected = torch.tensor([200.0, 0.0], dtype=torch.float64)
        torch.testing.assert_close(losses(mixture, at_log_ratios(z, torch.zeros_like(z))), expected)


@pytest.mark.parametrize("name", ["orpo", "drdo", "drdo_reference"])
@pytest.mark.parametrize("logp", [0.0, -1e-30, -1e-12, -1e-6, -0.69, -0.7, -1e4])
def test_odds_of_near_certain_completions_stay_finite(name: str, logp: float) -> None:
    pair = random_pair()
    other = torch.full_like(pair.chosen.logp, -3.0)
    certain = torch.full_like(other, logp)
    assert_finite_in(torch.float32, mixture_of(name), with_logps(pair, certain, other))
    assert_finite_in(torch.float32, mixture_of(name), with_logps(pair, other, certain))


def test_log_odds_are_accurate_at_both_ends() -> None:
    x = torch.tensor([-1e-6, -0.5, -0.6931471805599453, -0.8, -40.0], dtype=torch.float64)
    expected = torch.tensor(  # mpmath with 50 digits
        [-13.815511057964232, -0.93275212956718857, -0.6931471805599453, -0.59661767918897545, -4.248354255291589e-18],
        dtype=torch.float64,
    )
    torch.testing.assert_close(log1mexp(x), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
def test_maps_rise_over_the_whole_range(divergence: str) -> None:
    x = torch.linspace(-200, 35, 500, dtype=torch.float64)
    pair = with_divergence(at_log_ratios(x, x), mixture_of("sigmoid", divergence=divergence))
    s: Tensor = pair.chosen.s
    assert (s.diff() > 0).all()
