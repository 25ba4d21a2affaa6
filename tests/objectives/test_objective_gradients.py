"""Every gradient against central differences, and against closed form where there is a simple one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from objective_cases import (
    PAIRS,
    at_log_ratios,
    constants_of,
    leaves,
    losses,
    losses_and_gradients,
    mixture_of,
    random_pair,
    with_divergence,
    with_logps,
)
from torch import Tensor

from iwpo_fast.objectives import OBJECTIVES, Mixture, Pair

# Its value is half of what its gradient is of, as each sorted difference belongs to two completions: test_batchwise.
SHARED_DIFFERENCES = {"aot_unpaired"}
# Their weights read log-probs without gradient: test_weighed, test_drpo.
DETACHED = {"mwpo", "drpo"}
DIVERGENCES = [("forward_kl", None), ("js", None), ("alpha", None), ("alpha", 1.5), ("alpha", 1.0)]


def assert_gradients_are_differences(mixture: Mixture, pair: Pair, smoothing: Tensor | float = 0.0) -> None:
    """The statistics of the step stay fixed, as they do in training."""
    pair = with_divergence(pair, mixture)
    constants = constants_of(mixture, pair)
    assert torch.autograd.gradcheck(
        lambda *logps: mixture(with_logps(pair, *logps), constants, smoothing), leaves(pair)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - SHARED_DIFFERENCES - DETACHED))
def test_gradients_agree_with_central_differences(name: str) -> None:
    assert_gradients_are_differences(mixture_of(name), random_pair())


@pytest.mark.parametrize("settings", DIVERGENCES, ids=str)
@pytest.mark.parametrize("name", ["sigmoid", "ipo", "exo_pair", "ld_dpo"])
def test_gradients_through_a_divergence_agree_with_central_differences(
    name: str, settings: tuple[str, float | None]
) -> None:
    divergence, alpha = settings
    mixture = mixture_of(name, divergence=divergence, divergence_alpha=alpha)
    assert_gradients_are_differences(mixture, random_pair(spread=1.0))


def test_gradients_with_smoothed_labels_agree_with_central_differences() -> None:
    smoothing = torch.linspace(0, 0.5, PAIRS).double()
    assert_gradients_are_differences(mixture_of({"sigmoid": 0.5, "nca_pair": 2.0}), random_pair(), smoothing)


def sg(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def opposite(by_w: Tensor) -> tuple[Tensor, Tensor]:
    return by_w, -by_w


def exo(pair: Pair, b: float) -> tuple[Tensor, Tensor]:
    x = b * pair.h
    return opposite(b * sg(x) * sg(-x) * (x - math.log((1 - 1e-3) / 1e-3)))


def discopop(pair: Pair, b: float) -> tuple[Tensor, Tensor]:
    z, tau = b * pair.h, 0.05
    g, e = sg(z / tau), torch.exp(-z)
    log_sigmoid = -torch.log1p(e)
    return opposite(b * ((1 - g) * -sg(-z) - g * e + g * (1 - g) / tau * (e + log_sigmoid)))


def robust(pair: Pair, b: float, eps: float = 0.1) -> tuple[Tensor, Tensor]:
    x = b * pair.h
    return opposite(-b * ((1 - eps) * sg(-x) + eps * sg(x)) / (1 - 2 * eps))


def apo_down(pair: Pair, b: float) -> tuple[Tensor, Tensor]:
    w, x = b * pair.chosen.s, b * pair.h
    return b * sg(w) * sg(-w) - b * sg(x) * sg(-x), b * sg(x) * sg(-x)


def apo_zero(pair: Pair, b: float) -> tuple[Tensor, Tensor]:
    w, l = b * pair.chosen.s, b * pair.rejected.s  # noqa: E741
    return -b * sg(w) * sg(-w), b * sg(l) * sg(-l)


def nca(pair: Pair, b: float) -> tuple[Tensor, Tensor]:
    w, l = b * pair.chosen.s, b * pair.rejected.s  # noqa: E741
    return -b * sg(-w) + 0.5 * b * sg(w), 0.5 * b * sg(l)


def averaged(residual: Callable[[Tensor], Tensor]) -> Callable[[Pair, float], tuple[Tensor, Tensor]]:
    def gradient(pair: Pair, b: float) -> tuple[Tensor, Tensor]:
        by_h = residual(pair.chosen.s / pair.chosen.tokens - pair.rejected.s / pair.rejected.tokens)
        return by_h / pair.chosen.tokens, -by_h / pair.rejected.tokens

    return gradient


BETA = 0.3
CLOSED: dict[str, Callable[[Pair, float], tuple[Tensor, Tensor]]] = {
    "sigmoid": lambda pair, b: opposite(-b * sg(-b * pair.h)),
    "cdpo": lambda pair, b: opposite(-b * (0.9 - sg(b * pair.h))),
    "mmpo": lambda pair, b: opposite(-b * (sg(2.2 * pair.reward_gap) - sg(b * pair.h))),
    "rpo_bwd_kl": lambda pair, b: opposite(-b * (sg(pair.reward_gap) - sg(b * pair.h))),
    "robust": robust,
    "hinge": lambda pair, b: opposite(-b * (b * pair.h < 1).double()),
    "ipo": averaged(lambda h: 2 * (h - 1 / (2 * BETA))),
    "sigmoid_norm": averaged(lambda h: -BETA * sg(-BETA * h)),
    "ipo_sum": lambda pair, b: opposite(2 * (pair.h - 1 / (2 * b))),
    "d_dpo": lambda pair, b: opposite(2 * b * (b * pair.h - pair.reward_gap)),
    "rpo_sq": lambda pair, b: opposite(2 * b * (b * pair.h - pair.reward_gap)),
    "exo_pair": exo,
    "discopop": discopop,
    "nca_pair": nca,
    "bco_pair": lambda pair, b: (-b * sg(-b * pair.chosen.s), b * sg(b * pair.rejected.s)),
    "sppo_hard": lambda pair, b: (2 * (pair.chosen.s - 0.5 / b), 2 * (pair.rejected.s + 0.5 / b)),
    "gpo": lambda pair, b: (
        2 * (pair.chosen.s - pair.chosen.reward / b),
        2 * (pair.rejected.s - pair.rejected.reward / b),
    ),
    "gpo_norm": lambda pair, b: (
        2 * (pair.chosen.mean_s - pair.chosen.reward / b) / pair.chosen.tokens,
        2 * (pair.rejected.mean_s - pair.rejected.reward / b) / pair.rejected.tokens,
    ),
    "apo_zero": apo_zero,
    "apo_down": apo_down,
}


@pytest.mark.parametrize("name", CLOSED)
def test_gradients_are_the_closed_forms(name: str) -> None:
    pair = random_pair()
    _, by_w, by_l = losses_and_gradients(mixture_of(name, BETA), pair)
    expected_w, expected_l = CLOSED[name](pair, BETA)
    torch.testing.assert_close(by_w, expected_w)
    torch.testing.assert_close(by_l, expected_l)


def stationary_margins(name: str, h: Tensor, **settings: float) -> Tensor:
    """Gradient by h at the given margins."""
    pair = at_log_ratios(h / 2, -h / 2)
    return losses_and_gradients(mixture_of(name, BETA, **settings), pair)[1]


def test_soft_labels_have_their_minimum_at_the_logit_of_the_label() -> None:
    h = torch.tensor([math.log(0.9 / 0.1) / BETA], dtype=torch.float64)
    torch.testing.assert_close(stationary_margins("cdpo", h), torch.zeros_like(h), atol=1e-12, rtol=0)
    assert stationary_margins("cdpo", h - 0.1) < 0 < stationary_margins("cdpo", h + 0.1)


def test_exo_has_its_minimum_at_the_logit_of_its_target() -> None:
    h = torch.tensor([math.log((1 - 1e-3) / 1e-3) / BETA], dtype=torch.float64)
    torch.testing.assert_close(stationary_margins("exo_pair", h), torch.zeros_like(h), atol=1e-12, rtol=0)
    assert stationary_margins("exo_pair", h - 0.1) < 0 < stationary_margins("exo_pair", h + 0.1)


@pytest.mark.parametrize("name", sorted(name for name, objective in OBJECTIVES.items() if objective.statistics))
def test_statistics_of_the_step_are_detached(name: str) -> None:
    pair = random_pair()
    constants = constants_of(mixture_of(name), with_logps(pair, *leaves(pair)))
    assert not any(value.requires_grad for value in constants[name].values())


def test_the_weight_of_wpo_is_detached() -> None:
    pair = random_pair()
    alignment = pair.chosen.alignment.clone().requires_grad_()
    loss = losses(mixture_of("wpo"), replace(pair, chosen=replace(pair.chosen, alignment=alignment))).sum()
    assert not loss.requires_grad
