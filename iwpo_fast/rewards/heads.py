"""Reward heads on frozen features (step 3 of MCRM): many at once, so that features are read once for all.

r(x, y) = (v + δ_z)ᵀ f(x, y), and a head minimises

    mean softplus(-(r_w - r_l)) + c · mean (r_w + r_l)² + ρ ‖v‖² + η Σ_k ‖δ_k‖² + η_o · L_overlap

over weighted pairs. Only the abstract of IWPO is public; this loss is the project's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from scipy.special import expit

from iwpo_fast.rewards.blocks import Float32s
from iwpo_fast.rewards.feature_matrix import FeatureMatrix

MAX_ITERATIONS = 200
TOLERANCE = 1e-3


@dataclass(frozen=True)
class HeadProblem:
    """The loss of m heads on the same features.

    Attributes:
        features: X [n, d].
        compared: [T, n], rows with 1 for the response that should have more reward and -1 for the other.
        compared_weight: [T, m] fp32, of each comparison for each head; 0 leaves it out.
        added: [P, n], rows with 1 for both responses of a pair.
        added_weight: [P, m] fp32, of the squared sums.
        penalty: [parts, m] fp32, of the shared vector (first) and of every residual (the others, if any).
    """

    features: FeatureMatrix
    compared: csr_array
    compared_weight: Float32s
    added: csr_array
    added_weight: Float32s
    penalty: Float32s


@dataclass(frozen=True)
class Heads:
    """m fitted heads.

    Attributes:
        vectors: [G, d, m] fp32, v + δ_k; [1, d, m] without residuals.
        rewards: [n, m] fp32, of the rows of the feature matrix, used in training or not.
        iterations: passes over the features.
    """

    vectors: Float32s
    rewards: Float32s
    iterations: int


def incidence(plus: NDArray[np.int64], minus: NDArray[np.int64], sign: int, columns: int) -> csr_array:
    """[T, columns] fp32 with 1 at `plus` and `sign` at `minus` in each row."""
    values = np.tile(np.array([1, sign], dtype=np.float32), len(plus))
    places = np.stack([plus, minus], axis=1).ravel()
    return csr_array((values, places, np.arange(0, len(places) + 1, 2)), shape=(len(plus), columns))


def fit_heads(problem: HeadProblem) -> Heads:
    """Minimise by conjugate gradients (Polak-Ribière+), each head with steps of its own.

    Rewards are linear in the parameters, so the line search needs no features: an iteration costs one product with X
    and one with Xᵀ for all heads together, and no head depends on the data of another. A head rests when its gradient
    has fallen to `TOLERANCE` of the first one.
    """
    features, parts, heads = problem.features, len(problem.penalty), problem.penalty.shape[1]
    maps = vstack([problem.compared, problem.added], format="csr")
    adjoint = maps.T.tocsr()
    split = problem.compared.shape[0]
    penalty = problem.penalty[:, None, :]

    theta = np.zeros((parts, features.values.shape[1], heads), dtype=np.float32)
    rewards = np.zeros((len(features.values), heads), dtype=np.float32)
    mapped = maps @ rewards

    def gradient() -> Float32s:
        slopes = np.concatenate(
            [
                -problem.compared_weight * expit(-mapped[:split]),
                2 * problem.added_weight * mapped[split:],
            ]
        )
        return _to_parameters(features.transposed_times(adjoint @ slopes, max(1, parts - 1))) + 2 * penalty * theta

    slope = gradient()
    first = squared = _dot(slope, slope)
    direction = -slope
    resting = np.zeros(heads, dtype=bool)
    iterations = 0
    while iterations < MAX_ITERATIONS and not (resting := resting | (squared <= TOLERANCE**2 * first)).all():
        iterations += 1
        change = features.times(_to_vectors(direction))
        mapped_change = maps @ change
        step = _line_search(
            problem, mapped, mapped_change, _dot(penalty * theta, direction), _dot(penalty * direction, direction)
        )
        step = np.where(resting, 0, step).astype(np.float32)
        theta += step * direction
        rewards += step * change
        mapped += step * mapped_change
        previous, slope = slope, gradient()
        conjugate = np.maximum(0, _dot(slope, slope - previous) / np.maximum(squared, 1e-300))
        squared = _dot(slope, slope)
        direction = conjugate.astype(np.float32) * direction - slope
        uphill = _dot(direction, slope) >= 0
        direction[..., uphill] = -slope[..., uphill]
    return Heads(_to_vectors(theta), rewards, iterations)


def _to_vectors(theta: Float32s) -> Float32s:
    """v + δ_k of the parameters [v, δ_1, ...]."""
    return theta if len(theta) == 1 else theta[:1] + theta[1:]


def _to_parameters(slopes: Float32s) -> Float32s:
    """The adjoint of `_to_vectors`."""
    return slopes if len(slopes) == 1 else np.concatenate([slopes.sum(axis=0, keepdims=True), slopes])


def _dot(left: Float32s, right: Float32s) -> NDArray[np.float64]:
    return np.einsum("pdm,pdm->m", left, right, dtype=np.float64)


def _line_search(
    problem: HeadProblem,
    mapped: Float32s,
    change: Float32s,
    penalty_slope: NDArray[np.float64],
    penalty_curvature: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The best step [m] of each head along its direction, by Newton's method inside a bracket."""
    split = problem.compared.shape[0]
    gap, gap_change = mapped[:split], change[:split]
    total, total_change = mapped[split:], change[split:]
    weighted_change = problem.compared_weight * gap_change
    linear = 2 * (penalty_slope + np.einsum("tm,tm,tm->m", problem.added_weight, total, total_change, dtype=np.float64))
    quadratic = 2 * (penalty_curvature + np.einsum("tm,tm->m", problem.added_weight, total_change**2, dtype=np.float64))
    low = np.zeros(len(linear))
    high = np.full(len(linear), np.inf)
    step = np.zeros(len(linear))
    for _ in range(8):
        wrong = expit(-(gap + step.astype(np.float32) * gap_change))
        slope = linear + step * quadratic - np.einsum("tm,tm->m", weighted_change, wrong, dtype=np.float64)
        curvature = quadratic + np.einsum(
            "tm,tm,tm->m", weighted_change, gap_change, wrong * (1 - wrong), dtype=np.float64
        )
        low = np.where(slope <= 0, step, low)
        high = np.where(slope > 0, step, high)
        newton = step - slope / np.maximum(curvature, 1e-300)
        inside = (newton >= low) & (newton <= high)
        middle = np.where(np.isfinite(high), (low + np.where(np.isfinite(high), high, 0)) / 2, 2 * low + 1)
        moved = np.where(inside, newton, middle)
        close = np.abs(moved - step) <= 1e-2 * np.abs(moved)
        step = moved
        if close.all():
            break
    return step
