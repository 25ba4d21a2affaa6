import importlib.util
import itertools

import pytest
import torch

from iwpo_fast.config import OptimConfig
from iwpo_fast.training.optimizer import learning_rate, make_optimizer, moments_bytes


def test_learning_rate_rises_to_its_peak_over_the_warmup_then_decays_towards_the_minimum():
    config = OptimConfig(lr=1.0, warmup_fraction=0.2, min_lr_fraction=0.1)
    rates = [learning_rate(step, 10, config) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert all(a > b for a, b in itertools.pairwise(rates[2:]))
    assert learning_rate(10, 10, config) == pytest.approx(0.1)


@pytest.mark.parametrize(("schedule", "halfway"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)])
def test_schedules_at_half_of_the_decay(schedule, halfway):
    config = OptimConfig(lr=1.0, warmup_fraction=0.0, schedule=schedule)
    assert learning_rate(5, 10, config) == pytest.approx(halfway)


def test_weight_decay_acts_on_matrices_only():
    parameters = {"w": torch.nn.Parameter(torch.ones(2, 2)), "b": torch.nn.Parameter(torch.ones(2))}
    optimizer = make_optimizer(parameters, OptimConfig(lr=0.1, weight_decay=0.5))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(parameters["w"].data, torch.full((2, 2), 0.95))
    torch.testing.assert_close(parameters["b"].data, torch.ones(2))


def trained(config: OptimConfig, steps: int = 20) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    """A matrix after steps towards zero, and the optimiser that made them."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 100))
    optimizer = make_optimizer({"weight": weight}, config)
    for _ in range(steps):
        weight.grad = weight.detach() + 0.1 * torch.randn(64, 100)
        optimizer.step()
    return weight.detach(), optimizer


def test_moments_of_8_bits_take_a_quarter_and_train_nearly_as_those_of_32():
    pytest.importorskip("bitsandbytes")
    exact, _ = trained(OptimConfig(lr=0.01))
    config = OptimConfig(lr=0.01, name="adamw_8bit")
    rounded, optimizer = trained(config)
    torch.manual_seed(0)
    moved = (exact - torch.randn(64, 100)).abs().mean()
    assert 0 < (rounded - exact).abs().mean() < 0.05 * moved
    state = next(iter(optimizer.state.values()))
    held = sum(state[name].nbytes for name in ("state1", "state2", "absmax1", "absmax2"))
    assert held == moments_bytes(rounded, config) < 0.26 * moments_bytes(exact, OptimConfig())


def test_small_parameters_keep_moments_of_32_bits():
    pytest.importorskip("bitsandbytes")
    config = OptimConfig(lr=0.1, name="adamw_8bit")
    weight = torch.nn.Parameter(torch.ones(63, 65))
    optimizer = make_optimizer({"weight": weight}, config)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = optimizer.state[weight]
    assert state["state1"].dtype == torch.float32
    assert state["state1"].nbytes + state["state2"].nbytes == moments_bytes(weight, config)


def test_moments_of_8_bits_without_bitsandbytes_are_refused(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("iwpo_fast.extras.find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(ValueError, match=r"^optim\.name is adamw_8bit but .* pip install 'iwpo-fast\[8bit\]'\.$"):
        make_optimizer({"w": torch.nn.Parameter(torch.ones(2))}, OptimConfig(name="adamw_8bit"))
