import itertools

import pytest
import torch

from iwpo_fast.config import OptimConfig
from iwpo_fast.training.optimizer import learning_rate, make_optimizer


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
