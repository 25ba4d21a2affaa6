"""Steps that a gradient which is not finite does not take."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from iwpo_fast.config import OptimConfig
from iwpo_fast.finite import backward, not_finite
from iwpo_fast.optimisation import fit, make_optimizer, update

BAD = [float("nan"), float("inf"), float("-inf")]


def two_parameters(entries: int = 8) -> dict[str, Parameter]:
    torch.manual_seed(0)
    return {"matrix": Parameter(torch.randn(entries, 2)), "vector": Parameter(torch.randn(entries))}


def held(parameters: dict[str, Parameter], optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    moments = [value for p in parameters.values() for value in optimizer.state[p].values()]
    return [torch.as_tensor(value).detach().clone() for value in (*parameters.values(), *moments)]


def step(parameters: dict[str, Parameter], optimizer: torch.optim.Optimizer, config: OptimConfig, value: float) -> None:
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    parameters["vector"].grad[3] = value
    update(optimizer, parameters.values(), config)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("max_norm", [1.0, None])
@pytest.mark.parametrize("name", ["adamw", "adamw_8bit"])
def test_a_bad_gradient_moves_neither_weights_nor_moments_and_no_later_step_does(value, max_norm, name) -> None:
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    parameters = two_parameters(4096)
    config = OptimConfig(name=name, lr=0.1, weight_decay=0.1, max_grad_norm=max_norm)
    optimizer = make_optimizer(parameters, config)
    step(parameters, optimizer, config, 1.0)
    before = held(parameters, optimizer)
    for gradient in (value, 1.0):
        step(parameters, optimizer, config, gradient)
        for now, then in zip(held(parameters, optimizer), before, strict=True):
            assert torch.equal(now, then)


def test_steps_with_good_gradients_are_bitwise_those_of_the_optimiser_alone() -> None:
    ours, plain, config = two_parameters(), two_parameters(), OptimConfig(lr=0.1, weight_decay=0.1)
    optimizer, alone = make_optimizer(ours, config), make_optimizer(plain, config)
    for value in (1.0, -3.0, 0.5):
        step(ours, optimizer, config, value)
        for parameter in plain.values():
            parameter.grad = torch.ones_like(parameter)
        plain["vector"].grad[3] = value
        torch.nn.utils.clip_grad_norm_(plain.values(), config.max_grad_norm)
        alone.step()
    for a, b in zip(held(ours, optimizer), held(plain, alone), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("value", BAD)
def test_a_loss_that_is_not_finite_has_a_gradient_that_is_not(value) -> None:
    parameter = Parameter(torch.ones(3))
    backward(parameter.sum() * 0 + value)  # whose own gradient is 0
    assert parameter.grad.isnan().all()


def test_a_finite_loss_has_its_own_gradient_bitwise() -> None:
    ours, plain = Parameter(torch.linspace(-1, 1, 7)), Parameter(torch.linspace(-1, 1, 7))
    backward(ours.exp().sum())
    plain.exp().sum().backward()
    assert torch.equal(ours.grad, plain.grad)


@pytest.mark.parametrize("value", BAD)
def test_tensors_that_are_not_finite_are_named_in_their_order(value) -> None:
    tensors = {name: torch.ones(4) for name in "abcd"} | {"empty": torch.ones(0), "ids": torch.arange(3)}
    for name in "bd":
        tensors[name][2] = value
    assert not_finite(tensors) == ["b", "d"]
    assert not_finite({}) == []


@pytest.mark.parametrize(
    ("factor", "rate", "expected"),
    [
        (float("nan"), 0.1, r"^test: the gradient of step 1 of 3 is not finite"),
        (1.0, 1e39, r"^test: its updates made vector not finite"),
    ],
)
def test_a_fit_that_diverges_is_refused(factor, rate, expected) -> None:
    parameter = Parameter(torch.ones(2))
    config = OptimConfig(lr=rate, warmup_fraction=0.0)

    def accumulate(_: int) -> None:
        (factor * parameter.sum()).backward()

    with pytest.raises(ValueError, match=expected):
        fit({"vector": parameter}, config, 3, accumulate, what="test")
