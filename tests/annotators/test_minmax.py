"""The mixture of least regret against the linear program that it solves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from iwpo_fast.annotators.minmax import least_regret, regrets, worst


def by_linear_program(regret: np.ndarray) -> float:
    """min over the simplex of max_i Σ_j R_ij w_j."""
    rows, columns = regret.shape
    found = linprog(
        np.append(np.zeros(columns), 1.0),
        A_ub=np.hstack([regret, -np.ones((rows, 1))]),
        b_ub=np.zeros(rows),
        A_eq=np.append(np.ones(columns), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * columns + [(None, None)],
    )
    return float(found.fun)


def test_regret_is_what_a_type_loses_by_the_policy_of_another() -> None:
    gains = np.array([[3.0, -2.0], [-1.0, 4.0]])
    assert regrets(gains, [1.0, 2.0]).tolist() == [[0, 0], [0, 5], [10, 0]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [1, 40])
def test_it_is_the_solution_of_the_linear_program(seed, size) -> None:
    draw = np.random.default_rng(seed)
    types = int(draw.integers(2, 5))
    gains = size * draw.normal(size=(types, types)) + size * np.eye(types)
    regret = regrets(gains, draw.uniform(0.5, 4, types))
    mixture = least_regret(regret, 20_000)
    assert mixture.sum() == pytest.approx(1) and (mixture >= 0).all()
    gap = worst(regret, mixture) - by_linear_program(regret)
    assert -1e-9 <= gap <= 0.01 * np.abs(regret).max()


def test_two_types_of_equal_regret_get_half_each() -> None:
    mixture = least_regret(regrets(np.array([[5.0, -5.0], [-5.0, 5.0]]), [1.0, 1.0]), 2_000)
    assert mixture == pytest.approx([0.5, 0.5], abs=1e-6)


def test_a_regret_that_counts_more_is_smaller() -> None:
    gains = np.array([[5.0, -5.0], [-5.0, 5.0]])
    mixture = least_regret(regrets(gains, [4.0, 1.0]), 20_000)
    assert mixture == pytest.approx([0.8, 0.2], abs=0.01)  # 40 w_1 = 10 w_0


def test_one_policy_for_all_and_equal_policies_are_no_division_by_zero() -> None:
    assert least_regret(np.zeros((2, 1)), 10).tolist() == [1.0]
    assert least_regret(np.zeros((4, 3)), 10) == pytest.approx([1 / 3] * 3)
