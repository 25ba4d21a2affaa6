"""CPU time of reward heads by conjugate gradients, by SciPy's L-BFGS-B and by PyTorch's LBFGS, on one thread.

    python -m benchmarks.reward_solvers [--small]

All solvers are given the same features in memory, the same loss and the same end: the gradient of every head has fallen
to `heads.TOLERANCE` of the first one. The library's conjugate gradients take all heads at once, each with steps of its
own. The others take all heads as one problem, or one head after the other (some are measured, and counted for all).
Solvers run in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_array, vstack
from scipy.special import expit

from benchmarks.environment import describe, slug
from benchmarks.rewards import RESULTS, made_pairs
from iwpo_fast.config import RewardConfig
from iwpo_fast.files import save_json
from iwpo_fast.rewards.heads import TOLERANCE, TrainingPairs, fit_heads

ALONE = 2  # heads that are measured where each is solved by itself
HISTORY, MOST = 10, 1000  # of both L-BFGS
Array = np.ndarray[Any, Any]


class Reached(Exception):
    """The gradient of every head is small enough."""


@dataclass
class Problem:
    """Some heads: what `fit_heads` is given, and the loss and gradient that it minimises."""

    pairs: TrainingPairs
    weights: Array
    penalty: Array

    @property
    def maps(self) -> csr_array:
        return vstack([self.pairs.compared, self.pairs.added], format="csr")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Vectors, features and heads."""
        return len(self.penalty), self.pairs.features.shape[1], self.penalty.shape[1]

    def head(self, index: int) -> Problem:
        """One of the heads alone."""
        one = slice(index, index + 1)
        return Problem(self.pairs, self.weights[:, one].copy(), self.penalty[:, one].copy())

    def conjugate_gradients(self) -> None:
        centring = np.float32(self.pairs.settings.centring)
        fit_heads(self.pairs.features, self.pairs.cells, self.maps, self.weights, centring * self.weights, self.penalty)

    def scipy(self) -> None:
        maps, first = self.maps, np.zeros(0)
        adjoint = maps.T.tocsr()

        def loss(flat: Array) -> tuple[float, Array]:
            nonlocal first
            value, slope = self._loss(flat.astype(np.float32).reshape(self.shape), maps, adjoint)
            size = np.sqrt(np.einsum("pdm,pdm->m", slope, slope, dtype=np.float64))
            first = first if first.size else size
            if (size <= TOLERANCE * first).all():
                raise Reached
            return value, slope.astype(np.float64).ravel()

        limits = {"maxiter": MOST, "maxfun": 2 * MOST, "ftol": 0, "gtol": 0, "maxcor": HISTORY}
        minimize(loss, np.zeros(np.prod(self.shape)), jac=True, method="L-BFGS-B", options=limits)

    def _loss(self, theta: Array, maps: csr_array, adjoint: csr_array) -> tuple[float, Array]:
        x, cells, centring = self.pairs.features, self.pairs.cells, self.pairs.settings.centring
        split = len(self.weights)
        vectors = theta if len(theta) == 1 else theta[:1] + theta[1:]
        spans = [slice(None)] if len(theta) == 1 else cells
        mapped = maps @ np.concatenate([x[span] @ v for span, v in zip(spans, vectors, strict=True)])
        gap, total = mapped[:split], mapped[split:]
        penalty = self.penalty[:, None, :] * theta
        value = float((self.weights * (np.logaddexp(0, -gap) + centring * total**2)).sum() + (penalty * theta).sum())
        slopes = adjoint @ np.concatenate([-self.weights * expit(-gap), 2 * centring * self.weights * total])
        of_vectors = np.stack([x[span].T @ slopes[span] for span in spans])
        if len(theta) > 1:
            of_vectors = np.concatenate([of_vectors.sum(axis=0, keepdims=True), of_vectors])
        return value, of_vectors + 2 * penalty

    def torch(self) -> None:
        x, weights, penalty = (torch.from_numpy(a) for a in (self.pairs.features, self.weights, self.penalty))
        chosen, rejected = torch.from_numpy(self.pairs.compared.indices.reshape(-1, 2).astype(np.int64)).T
        sign = torch.from_numpy(self.pairs.compared.data.reshape(-1, 2)[:, :1].copy())
        theta = torch.zeros(self.shape, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [theta],
            max_iter=MOST,
            max_eval=2 * MOST,
            tolerance_grad=0,
            tolerance_change=0,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )
        first = torch.zeros(0)

        def loss() -> torch.Tensor:
            nonlocal first
            optimiser.zero_grad()
            vectors = theta if len(theta) == 1 else theta[:1] + theta[1:]
            spans = [slice(None)] if len(theta) == 1 else self.pairs.cells
            rewards = torch.cat([x[span] @ v for span, v in zip(spans, vectors, strict=True)])
            gap, total = sign * (rewards[chosen] - rewards[rejected]), rewards[chosen] + rewards[rejected]
            centred = self.pairs.settings.centring * total.square()
            value = (weights * (torch.nn.functional.softplus(-gap) + centred)).sum()
            value = value + (penalty[:, None] * theta.square()).sum()
            value.backward()
            assert theta.grad is not None
            size = theta.grad.double().square().sum((0, 1)).sqrt()
            first = first if first.numel() else size
            if bool((size <= TOLERANCE * first).all()):
                raise Reached
            return value

        optimiser.step(loss)  # type: ignore[arg-type]


def solvers(problem: Problem) -> dict[str, tuple[Callable[[], None], float]]:
    """What is timed, and for how many times itself it counts."""
    heads = problem.shape[2]
    found: dict[str, tuple[Callable[[], None], float]] = {
        "conjugate gradients": (problem.conjugate_gradients, 1.0),
        "SciPy, heads as one problem": (problem.scipy, 1.0),
        "PyTorch, heads as one problem": (problem.torch, 1.0),
    }
    if heads > 1:
        alone = [problem.head(i) for i in range(min(ALONE, heads))]
        found["SciPy, head by head"] = (partial(_each, [one.scipy for one in alone]), heads / len(alone))
    return found


def _each(solve: list[Callable[[], None]]) -> None:
    for one in solve:
        _to_the_end(one)


def _to_the_end(solve: Callable[[], None]) -> None:
    with suppress(Reached):
        solve()


def problem_of(pairs: TrainingPairs, heads: int, residual: float | None, seed: int) -> Problem:
    """Bootstrapped heads of one ridge, as an ensemble has them, with residuals of each cluster or without."""
    random, count = np.random.default_rng(seed), len(pairs.prompt)
    weights = random.multinomial(count, np.full(count, 1 / count), heads).T / count
    penalty = [np.full(heads, 1e-3)] + [np.full(heads, residual)] * (len(pairs.cells) if residual else 0)
    return Problem(pairs, weights.astype(np.float32), np.stack(penalty).astype(np.float32))


def measure(pairs: int, width: int, rounds: int) -> list[dict[str, Any]]:
    records = []
    with made_pairs(pairs, width, squares=0.0) as (features, cluster):
        fold = np.arange(len(cluster)) % 4
        read = TrainingPairs.read((features.response,), features.table, cluster, fold, RewardConfig(), seed=0)
        for heads, residual in ((1, None), (16, None), (16, 1e-2)):
            problem = problem_of(read, heads, residual, seed=1)
            timed: dict[str, list[float]] = {}
            for name, (solve, times) in [*solvers(problem).items()] * rounds:
                start = time.process_time()
                _to_the_end(solve)
                timed.setdefault(name, []).append(round(times * (time.process_time() - start), 3))
            medians = {name: float(np.median(values)) for name, values in timed.items()}
            ours = medians["conjugate gradients"]
            records.append(
                {
                    "what": f"{heads} heads of {pairs:,} pairs x {width}" + ", with residuals" * (residual is not None),
                    "cpu_seconds": timed,
                    "times_conjugate_gradients": {name: round(value / ours, 2) for name, value in medians.items()},
                }
            )
            print(records[-1]["what"], records[-1]["times_conjugate_gradients"], flush=True)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a hundredth of the pairs, to see that it works")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--commit", help="where git cannot tell")
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts = describe(torch.device("cpu"), options.commit)
    records = measure(*((600, 256) if options.small else (60_000, 4096)), options.rounds)
    result = {"schema": 2, "date": date.today().isoformat(), "environment": facts, "threads": 1, "records": records}
    save_json(options.out / f"reward-solvers-{slug(facts)}{'-small' * options.small}.json", result)


if __name__ == "__main__":
    main()
