from __future__ import annotations

import pytest
import torch

from iwpo_fast.config import OptimConfig
from iwpo_fast.optimisation import make_optimizer, moments_bytes


def trained(config: OptimConfig, steps: int = 20) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    """A matrix after steps towards zero, and the optimiser that made them."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 100))
    optimizer = make_optimizer({"weight": weight}, config)
    for _ in range(steps):
        weight.grad = weight.detach() + 0.1 * torch.randn(64, 100)
        optimizer.step()
    return weight.detach(), optimizer


def test_moments_of_8_bits_take_a_quarter_and_train_nearly_as_those_of_32() -> None:
    pytest.importorskip("bitsandbytes")
    exact, _ = trained(OptimConfig(lr=0.01))
    config = OptimConfig(lr=0.01, name="adamw_8bit")
    rounded, optimizer = trained(config)
    torch.manual_seed(0)
    moved = (exact - torch.randn(64, 100)).abs().mean()
    assert 0 < (rounded - exact).abs().mean() < 0.05 * moved
    state = next(iter(optimizer.state.values()))
    held = sum(state[name].nbytes for name in ("state1", "state2", "absmax1", "absmax2"))
    assert held == moments_bytes(rounded, config, is_sharded=False)
    assert held < 0.26 * moments_bytes(exact, OptimConfig(), is_sharded=False)


def test_small_parameters_keep_moments_of_32_bits() -> None:
    pytest.importorskip("bitsandbytes")
    config = OptimConfig(lr=0.1, name="adamw_8bit")
    weight = torch.nn.Parameter(torch.ones(63, 65))
    large = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = make_optimizer({"weight": weight, "large": large}, config)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = optimizer.state[weight]
    assert state["state1"].dtype == torch.float32
    assert state["state1"].nbytes + state["state2"].nbytes == moments_bytes(weight, config, is_sharded=False)


def test_8_bits_that_no_parameter_would_have_are_refused() -> None:
    pytest.importorskip("bitsandbytes")
    sentence = "adamw_8bit, but none of what is trained has at least 4096 entries: set optim.name to adamw"
    with pytest.raises(ValueError, match=sentence):
        make_optimizer({"weight": torch.nn.Parameter(torch.ones(63, 65))}, OptimConfig(name="adamw_8bit"))
