from __future__ import annotations

import importlib.util
import itertools

import pytest
import torch

from iwpo_fast.config import OptimConfig
from iwpo_fast.optimisation import fit, learning_rate, make_optimizer, optimizer_steps


def test_learning_rate_rises_to_its_peak_over_the_warmup_then_decays_towards_the_minimum() -> None:
    config = OptimConfig(lr=1.0, warmup_fraction=0.2, min_lr_fraction=0.1)
    rates = [learning_rate(step, 10, config) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert all(a > b for a, b in itertools.pairwise(rates[2:]))
    assert learning_rate(10, 10, config) == pytest.approx(0.1)


@pytest.mark.parametrize(("schedule", "halfway"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)])
def test_schedules_at_half_of_the_decay(schedule, halfway) -> None:
    config = OptimConfig(lr=1.0, warmup_fraction=0.0, schedule=schedule)
    assert learning_rate(5, 10, config) == pytest.approx(halfway)


def test_weight_decay_acts_on_matrices_only() -> None:
    parameters = {"w": torch.nn.Parameter(torch.ones(2, 2)), "b": torch.nn.Parameter(torch.ones(2))}
    optimizer = make_optimizer(parameters, OptimConfig(lr=0.1, weight_decay=0.5))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(parameters["w"].data, torch.full((2, 2), 0.95))
    torch.testing.assert_close(parameters["b"].data, torch.ones(2))


def test_moments_of_8_bits_without_bitsandbytes_are_refused(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("iwpo_fast.extras.find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(ValueError, match=r"^optim\.name is adamw_8bit but .* pip install 'iwpo-fast\[8bit\]'\.$"):
        make_optimizer({"w": torch.nn.Parameter(torch.ones(2))}, OptimConfig(name="adamw_8bit"))


def test_fit_takes_the_steps_of_the_schedule_and_lists_what_each_returned() -> None:
    config = OptimConfig(lr=0.1, warmup_fraction=0.0, schedule="constant", weight_decay=0.0, max_grad_norm=None)
    ours, plain = (torch.nn.Parameter(torch.tensor([3.0, -2.0])) for _ in range(2))

    def accumulate(step: int) -> float:
        loss = ours.square().sum()
        loss.backward()
        return float(loss.detach())

    losses = fit({"weight": ours}, config, 4, accumulate, what="test")
    optimizer = torch.optim.AdamW([plain], lr=0.1, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=True)
    for expected in losses:
        loss = plain.square().sum()
        assert float(loss.detach()) == expected
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert len(losses) == 4 and ours.grad is None
    assert torch.equal(ours, plain)


@pytest.mark.parametrize(
    ("epochs", "pairs", "expected"),
    [(1.1, 100, 110), (0.07, 100, 7), (0.57, 100, 57), (2.3, 1000, 2300), (1.001, 100, 101), (1e-9, 100, 1), (1, 7, 7)],
)
def test_the_rounding_error_of_epochs_is_no_step(epochs, pairs, expected) -> None:
    assert optimizer_steps(OptimConfig(epochs=epochs, pairs_per_step=1), pairs) == (pairs, expected)


@pytest.mark.parametrize(("fraction", "steps", "expected"), [(0.07, 100, 7), (0.29, 100, 29), (0.57, 100, 57)])
def test_the_rounding_error_of_the_warmup_is_no_step(fraction, steps, expected) -> None:
    config = OptimConfig(lr=1.0, warmup_fraction=fraction, schedule="constant")
    assert [learning_rate(step, steps, config) for step in range(steps)].index(1.0) == expected - 1
