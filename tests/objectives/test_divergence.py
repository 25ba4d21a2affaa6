"""Maps of the log-ratio that f-divergences lead to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from objective_cases import at_reference, losses, mixture_of, random_pair
from torch import Tensor

from iwpo_fast.config import DataConfig, ObjectiveConfig, TrainConfig
from iwpo_fast.config_checks import check_config
from iwpo_fast.objectives.divergence import DIVERGENCES, Divergence, alpha_divergence, forward_kl, js

S = torch.linspace(-5, 5, 21, dtype=torch.float64)
ALPHAS = {f"alpha {alpha}": partial(alpha_divergence, alpha=alpha) for alpha in (0.3, 1.7)}
ALL = DIVERGENCES | ALPHAS


@pytest.mark.parametrize("divergence", ALL.values(), ids=ALL)
def test_a_policy_at_its_reference_has_score_zero_and_slope_of_its_divergence(divergence: Divergence) -> None:
    s = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    phi = divergence(s)
    (slope,) = torch.autograd.grad(phi.sum(), s)
    assert phi.item() == 0
    assert slope.item() == (0.5 if divergence is js else 1.0)


def test_the_alpha_divergences_end_in_both_kls() -> None:
    torch.testing.assert_close(alpha_divergence(S, alpha=1.0), S)
    torch.testing.assert_close(alpha_divergence(S, alpha=1 + 1e-7), S, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alpha_divergence(S, alpha=0.0), forward_kl(S))


@pytest.mark.parametrize(
    ("divergence", "derivative"),
    [
        (forward_kl, lambda u: 1 - 1 / u),
        (js, lambda u: torch.log(2 * u / (1 + u))),
        (alpha_divergence, lambda u: (u ** (0.5 - 1) - 1) / (0.5 - 1)),
    ],
)
def test_maps_are_the_derivatives_of_their_generators(
    divergence: Divergence, derivative: Callable[[Tensor], Tensor]
) -> None:
    torch.testing.assert_close(divergence(S), derivative(S.exp()))


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
@pytest.mark.parametrize("name", ["sigmoid", "ipo", "hinge", "exo_pair", "ld_dpo", "beta_dpo", "mmpo"])
def test_losses_start_where_they_do_under_the_reverse_kl(name: str, divergence: str) -> None:
    pair = at_reference(random_pair())
    torch.testing.assert_close(losses(mixture_of(name, divergence=divergence), pair), losses(mixture_of(name), pair))


def test_the_forward_kl_term_of_pessimistic_distillation_is_the_same_under_any_divergence() -> None:
    pair = random_pair()

    def term(**divergence: str) -> Tensor:
        with_term = losses(mixture_of("p_dpo", 0.1, gamma=0.5, **divergence), pair)
        return with_term - losses(mixture_of("p_dpo", 0.1, gamma=0.0, **divergence), pair)

    torch.testing.assert_close(term(divergence="js"), term())


# The losses that TRL 1.16 lets other divergences into, and those that judge completions one by one.
OF_DIFFERENCES = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop"}
OF_COMPLETIONS = {"nca_pair", "bco_pair", "bco", "kto", "apo_zero", "apo_down", "sppo_hard", "sppo", "gpo", "gpo_norm"}


@pytest.mark.parametrize("name", sorted(OF_COMPLETIONS | {"aot", "aot_unpaired", "spo"}))
def test_losses_that_are_no_function_of_the_margin_refuse_other_divergences(name: str) -> None:
    with pytest.raises(ValueError, match=rf"js but {name} is no function of differences"):
        mixture_of(name, divergence="js")


@pytest.mark.parametrize("name", sorted(OF_DIFFERENCES))
def test_losses_of_the_margin_take_them_and_a_likelihood_term_beside_them(name: str) -> None:
    assert mixture_of(name, divergence="js").divergence is js
    assert mixture_of({name: 1.0, "sft": 0.5}, divergence="js").uses_reference


def test_a_divergence_without_any_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="js but simpo is no function"):
        mixture_of("simpo", divergence="js")


def check(**settings: Any) -> None:
    check_config(TrainConfig(data=DataConfig(path="pairs.jsonl"), objective=ObjectiveConfig(**settings)))


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_the_order_of_a_divergence_must_be_finite(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"divergence_alpha is .* finite"):
        check(divergence="alpha", divergence_alpha=alpha)


def test_an_order_without_its_divergence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"divergence_alpha is 0\.9 but objective\.divergence is js"):
        check(divergence="js", divergence_alpha=0.9)
