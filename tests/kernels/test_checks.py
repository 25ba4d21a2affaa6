"""Derivatives and numbers that no operator serves are refused, and none is dropped in silence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from iwpo_kernels import linear_token_logps, token_logps, weighted_preference_loss
from iwpo_kernels.checks import check_positive

GENERATOR = torch.Generator().manual_seed(0)
HIDDEN, WEIGHT = torch.randn(4, 5, generator=GENERATOR), torch.randn(7, 5, generator=GENERATOR)
LOGITS, LABELS = torch.randn(4, 7, generator=GENERATOR), torch.tensor([0, 6, 3, 3])


def linear(**given: Any) -> Tensor:
    logps = linear_token_logps(**{"hidden": HIDDEN, "head_weight": WEIGHT, "labels": LABELS, **given})
    return logps.sum()


def preference(logps: Tensor) -> Tensor:
    return weighted_preference_loss(logps, torch.tensor([0, 3, 4])).loss


# What is differentiated, from which tensor, and the name of that argument.
LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, str]] = {
    "linear, frozen head": (lambda x: linear(hidden=x), HIDDEN, "hidden"),
    "linear, head": (lambda x: linear(head_weight=x), WEIGHT, "weight"),
    "linear, saved": (lambda x: linear(head_weight=x, save=True), WEIGHT, "weight"),
    "linear, bias": (lambda x: linear(bias=x), torch.zeros(7), "bias"),
    "tokens": (lambda x: token_logps(x * 1, LABELS).sum(), LOGITS, "logits"),
    "tokens, in place": (lambda x: token_logps(x * 1, LABELS, inplace_backward=True).sum(), LOGITS, "logits"),
    "preference": (preference, -LOGITS[0, :4].abs(), "logps"),
}
every_loss = pytest.mark.parametrize(("loss", "at", "name"), LOSSES.values(), ids=LOSSES)


@every_loss
def test_second_derivatives_are_refused(loss: Callable[[Tensor], Tensor], at: Tensor, name: str) -> None:
    at = at.clone().requires_grad_()
    with pytest.raises(ValueError, match="is differentiable once: leave out create_graph=True, or call naive_"):
        torch.autograd.grad(loss(at) + at.square().sum(), at, create_graph=True)


@every_loss
def test_derivatives_of_forward_mode_are_refused(loss: Callable[[Tensor], Tensor], at: Tensor, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} carries a forward-mode derivative"):
        torch.func.jvp(loss, (at,), (torch.ones_like(at),))
    with forward_ad.dual_level(), pytest.raises(ValueError, match=f"{name} carries a forward-mode derivative"):
        loss(forward_ad.make_dual(at, torch.ones_like(at)))


@pytest.mark.parametrize("reentrant", [False, True])
@every_loss
def test_a_checkpoint_is_no_second_derivative(
    loss: Callable[[Tensor], Tensor], at: Tensor, name: str, reentrant: bool
) -> None:
    at = at.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(at), at)
    recomputed = checkpoint(loss, at, use_reentrant=reentrant)
    assert isinstance(recomputed, Tensor)
    recomputed.backward()
    assert at.grad is not None and torch.equal(at.grad, expected)


@pytest.mark.parametrize("value", [1e-16, 0.7, 1, 1e16])
def test_numbers_that_float32_can_hold_and_invert_pass(value: float) -> None:
    check_positive("temperature", value)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1e-50, 1e40, float("inf"), float("nan")])
def test_numbers_that_float32_cannot_hold_or_invert_are_refused(value: float) -> None:
    with pytest.raises(
        ValueError, match=rf"temperature is {re.escape(str(value))}: pass a positive number, from 1e-16 to 1e\+16"
    ):
        check_positive("temperature", value)
