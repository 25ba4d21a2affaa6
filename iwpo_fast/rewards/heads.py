"""Reward heads on frozen features (step 3 of MCRM): many at once, so that features are read once for all.

r(x, y) = (v + δ_z)ᵀ f(x, y), and a head minimises

    mean softplus(-(r_w - r_l)) + c · mean (r_w + r_l)² + ρ ‖v‖² + η Σ_k ‖δ_k‖² + η_o · L_overlap

over weighted pairs. L_overlap, a surrogate of the overlap of the rewards of a cluster, is the logistic loss of
comparisons across its pairs. Only the abstract of IWPO is public; this loss is the project's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from scipy.special import expit

from iwpo_fast.config import RewardConfig
from iwpo_fast.rewards.blocks import Float32s, Float64s, Groups, Ints, float32_blocks, standardisation
from iwpo_fast.rewards.pair_table import PairTable

PARTNERS = 32
MAX_ITERATIONS = 200
TOLERANCE = 1e-3


@dataclass(frozen=True)
class TrainingPairs:
    """P pairs with their features in memory, ready for heads with any weights and penalties.

    Attributes:
        mean, scale: [d] fp32, by which features were standardised.
        features: [n, d] fp32, standardised, of the n responses that are in a pair, sorted by cluster.
        cells: rows of `features` in each of the G clusters.
        compared, added: [P, n], difference and sum of a pair's rewards.
        across: [T, n], differences across pairs i and j of a cluster; T is 0 without the overlap term.
        across_pairs: i, j and weight, [T] each.
        prompt, fold: [P] int64.
        lengths: [P, 2] int64, tokens of the chosen and of the rejected response; None where they are not known.
    """

    mean: Float32s
    scale: Float32s
    features: Float32s
    cells: list[slice]
    compared: csr_array
    added: csr_array
    across: csr_array
    across_pairs: tuple[Ints, Ints, Float64s]
    prompt: Ints
    fold: Ints
    settings: RewardConfig
    lengths: Ints | None = None

    @classmethod
    def read(
        cls,
        groups: Groups,
        table: PairTable,
        prompt_cluster: Ints,
        prompt_fold: Ints,
        settings: RewardConfig,
        *,
        seed: int,
        lengths: Ints | None = None,
    ) -> TrainingPairs:
        """Read the features of all responses in pairs: 4nd bytes of memory.

        Args:
            lengths: [C] int64, tokens of every response, where they are known.
        """
        responses = np.unique(np.concatenate([table.chosen, table.rejected]))
        mean, scale = standardisation(groups, responses)
        cluster = prompt_cluster[table.prompt_of[responses]]
        order = np.argsort(cluster, kind="stable")
        responses, cluster = responses[order], cluster[order]
        features = np.empty((len(responses), len(mean)), dtype=np.float32)
        for place, block in float32_blocks(groups, responses):
            features[place] = (block - mean) * scale
        bounds = np.searchsorted(cluster, np.arange(int(prompt_cluster.max()) + 2))
        row = np.empty(len(table.prompt_of), dtype=np.int64)
        row[responses] = np.arange(len(responses))
        chosen, rejected = row[table.chosen], row[table.rejected]
        none = np.empty(0, dtype=np.int64)
        across = partners(prompt_cluster[table.prompt], seed) if settings.overlap else (none, none, np.empty(0))
        return cls(
            mean=mean,
            scale=scale,
            features=features,
            cells=[slice(int(start), int(stop)) for start, stop in pairwise(bounds)],
            compared=_incidence(chosen, rejected, -1, len(responses)),
            added=_incidence(chosen, rejected, 1, len(responses)),
            across=_incidence(chosen[across[0]], rejected[across[1]], -1, len(responses)),
            across_pairs=across,
            prompt=table.prompt,
            fold=prompt_fold[table.prompt],
            settings=settings,
            lengths=None if lengths is None else np.stack([lengths[table.chosen], lengths[table.rejected]], axis=1),
        )

    @property
    def cluster(self) -> Ints:
        """[n] int64, of the rows of `features`."""
        return np.repeat(np.arange(len(self.cells)), [cell.stop - cell.start for cell in self.cells])

    @property
    def sides(self) -> Ints:
        """[P, 2] int64, rows of `features` of the chosen and of the rejected response."""
        return self.compared.indices.reshape(-1, 2).astype(np.int64)

    def fit(
        self, weights: NDArray[np.floating], ridge: NDArray[np.floating], residual: NDArray[np.floating] | None
    ) -> tuple[Float32s, Float32s]:
        """Fit m heads.

        Args:
            weights: [P, m], of the pairs for each head; only their proportions matter.
            ridge: [m], penalties of the shared vectors.
            residual: [m], penalties of the residuals; None leaves residuals out.

        Returns:
            Vectors and rewards, as `fit_heads` gives them.
        """
        weights = weights / weights.sum(axis=0)
        compared, compared_weight = [self.compared], weights
        if self.settings.overlap:
            first, second, stands_for = self.across_pairs
            across_weight = weights[first] * weights[second] * stands_for[:, None]
            across_weight *= self.settings.overlap / np.maximum(across_weight.sum(axis=0), 1e-300)
            compared, compared_weight = [self.compared, self.across], np.concatenate([weights, across_weight])
        penalty = [ridge] if residual is None else [ridge] + [residual] * len(self.cells)
        return fit_heads(
            self.features,
            self.cells,
            vstack([*compared, self.added], format="csr"),
            compared_weight.astype(np.float32),
            (self.settings.centring * weights).astype(np.float32),
            np.stack(penalty).astype(np.float32),
        )


def partners(cluster: Ints, seed: int) -> tuple[Ints, Ints, Float64s]:
    """Ordered pairs (i, j), i ≠ j, of one cluster: all of them in a small one.

    With more than `PARTNERS` other pairs, each i takes as many of the j, those that follow it in a random order of the
    cluster at fixed random distances, so that every pair is a partner equally often.

    Args:
        cluster: [P] int64.

    Returns:
        i and j, [T] int64 each, and for how many pairs (i, j) each of them stands, [T].
    """
    generator = np.random.default_rng(seed)
    first, second, stands_for = [], [], []
    for k in np.unique(cluster):
        members = generator.permutation(np.flatnonzero(cluster == k))
        count = len(members)
        distances = np.arange(1, count)
        if len(distances) > PARTNERS:
            distances = generator.choice(distances, PARTNERS, replace=False)
        first.append(np.repeat(members, len(distances)))
        second.append(members[(np.arange(count)[:, None] + distances).ravel() % count])
        stands_for.append(np.full(len(first[-1]), (count - 1) / max(1, len(distances))))
    return np.concatenate(first), np.concatenate(second), np.concatenate(stands_for)


def _incidence(plus: Ints, minus: Ints, sign: int, columns: int) -> csr_array:
    """[T, columns] fp32 with 1 at `plus` and `sign` at `minus` in each row."""
    values = np.tile(np.array([1, sign], dtype=np.float32), len(plus))
    places = np.stack([plus, minus], axis=1).ravel()
    return csr_array((values, places, np.arange(0, len(places) + 1, 2)), shape=(len(plus), columns))


def fit_heads(
    features: Float32s,
    cells: list[slice],
    maps: csr_array,
    compared_weight: Float32s,
    added_weight: Float32s,
    penalty: Float32s,
) -> tuple[Float32s, Float32s]:
    """Minimise by conjugate gradients (Polak-Ribière+), each head with steps of its own.

    Rewards are linear in the parameters, so the line search needs no features: an iteration costs one product with X
    and one with Xᵀ for all heads together, and no head depends on the data of another. A head rests when its gradient
    has fallen to `TOLERANCE` of the first one.

    Args:
        features: X [n, d].
        cells: rows of X in each of the G clusters.
        maps: [T + P, n], first T rows with 1 for the response that should have more reward and -1 for the other, then
            for each pair one with 1 for both of its responses.
        compared_weight: [T, m], of each comparison for each head; 0 leaves it out.
        added_weight: [P, m], of the squared sums.
        penalty: [parts, m], of the shared vector (first) and of the residual of each cluster (the others, if any).

    Returns:
        Vectors [G, d, m] fp32, v + δ_k, or [1, d, m] without residuals; and rewards [n, m] fp32 of all rows of X.
    """
    parts, heads = penalty.shape
    adjoint = maps.T.tocsr()
    split = len(compared_weight)
    penalty = penalty[:, None, :]

    theta = np.zeros((parts, features.shape[1], heads), dtype=np.float32)
    rewards = np.zeros((len(features), heads), dtype=np.float32)
    mapped = maps @ rewards

    def rewards_of(theta: Float32s) -> Float32s:
        if parts == 1:
            return features @ theta[0]
        return np.concatenate([features[cell] @ v for cell, v in zip(cells, _to_vectors(theta), strict=True)])

    def gradient() -> Float32s:
        slopes = np.concatenate([-compared_weight * expit(-mapped[:split]), 2 * added_weight * mapped[split:]])
        slopes = adjoint @ slopes
        if parts == 1:
            return (features.T @ slopes)[None] + 2 * penalty * theta
        residuals = np.stack([features[cell].T @ slopes[cell] for cell in cells])
        return np.concatenate([residuals.sum(axis=0, keepdims=True), residuals]) + 2 * penalty * theta

    slope = gradient()
    first = squared = _dot(slope, slope)
    direction = -slope
    resting = np.zeros(heads, dtype=bool)
    for _ in range(MAX_ITERATIONS):
        resting = resting | (squared <= TOLERANCE**2 * first)
        if resting.all():
            break
        change = rewards_of(direction)
        mapped_change = maps @ change
        penalty_slope, penalty_curvature = _dot(penalty * theta, direction), _dot(penalty * direction, direction)
        step = _line_search(compared_weight, added_weight, mapped, mapped_change, penalty_slope, penalty_curvature)
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
    return _to_vectors(theta), rewards


def _to_vectors(theta: Float32s) -> Float32s:
    """v + δ_k of the parameters [v, δ_1, ...]."""
    return theta if len(theta) == 1 else theta[:1] + theta[1:]


def _dot(left: Float32s, right: Float32s) -> Float64s:
    return np.einsum("pdm,pdm->m", left, right, dtype=np.float64)


def _line_search(
    compared_weight: Float32s,
    added_weight: Float32s,
    mapped: Float32s,
    change: Float32s,
    penalty_slope: Float64s,
    penalty_curvature: Float64s,
) -> Float64s:
    """The best step [m] of each head along its direction, by Newton's method inside a bracket."""
    split = len(compared_weight)
    gap, gap_change = mapped[:split], change[:split]
    total, total_change = mapped[split:], change[split:]
    weighted_change = compared_weight * gap_change
    linear = 2 * (penalty_slope + np.einsum("tm,tm,tm->m", added_weight, total, total_change, dtype=np.float64))
    quadratic = 2 * (penalty_curvature + np.einsum("tm,tm->m", added_weight, total_change**2, dtype=np.float64))
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
