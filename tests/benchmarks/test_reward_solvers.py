"""The comparison of solvers of reward heads: one loss and one end for all of them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import reward_solvers
from benchmarks.reward_solvers import Problem, measure, problem_of
from benchmarks.rewards import made_pairs
from iwpo_fast.config import RewardConfig
from iwpo_fast.rewards.heads import TOLERANCE, TrainingPairs, fit_heads


def size(slope: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(slope.astype(np.float64)).sum((0, 1)))


@pytest.mark.parametrize("residual", [None, 1e-2])
def test_the_end_of_the_librarys_heads_is_an_end_by_the_loss_of_the_others(residual: float | None) -> None:
    with made_pairs(160, 24, squares=0.0) as (features, cluster):
        fold = np.arange(160) % 4
        read = TrainingPairs.read((features.response,), features.table, cluster, fold, RewardConfig(), seed=0)
    problem = problem_of(read, 3, residual, seed=1)
    start = np.zeros(problem.shape, dtype=np.float32)
    adjoint = problem.maps.T.tocsr()
    first = problem._loss(start, problem.maps, adjoint)[1]
    moved = start.copy()
    moved[0, 5, 1] = 1e-3
    change = problem._loss(moved, problem.maps, adjoint)[0] - problem._loss(start, problem.maps, adjoint)[0]
    assert change == pytest.approx(1e-3 * first[0, 5, 1], rel=0.02)
    if residual is None:
        vectors, _ = fit_heads(
            read.features, read.cells, problem.maps, problem.weights, 0.01 * problem.weights, problem.penalty
        )
        assert (size(problem._loss(vectors, problem.maps, adjoint)[1]) <= 1.01 * TOLERANCE * size(first)).all()
    for solve in (problem.scipy, problem.torch):
        with pytest.raises(reward_solvers.Reached):
            solve()


def test_a_head_alone_is_that_of_the_problem() -> None:
    problem = Problem(None, np.arange(6.0).reshape(3, 2), np.ones((1, 2)))  # type: ignore[arg-type]
    assert problem.head(1).weights.tolist() == [[1.0], [3.0], [5.0]]


def test_every_solver_is_timed_beside_conjugate_gradients() -> None:
    one, many, with_residuals = measure(80, 16, rounds=1)
    assert one["times_conjugate_gradients"]["conjugate gradients"] == 1.0
    assert "SciPy, head by head" in many["cpu_seconds"] and "SciPy, head by head" not in one["cpu_seconds"]
    assert with_residuals["what"].endswith("with residuals")
