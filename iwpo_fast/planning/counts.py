"""The batches of every stage, as the library deals them, and so the tokens that a run computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from iwpo_fast.config import OptimConfig, TrainConfig
from iwpo_fast.data.order import micro_batches, step_rows
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import Responses
from iwpo_fast.models.policy import Layout, Policy
from iwpo_fast.models.reference import pass_batches
from iwpo_fast.optimisation import optimizer_steps
from iwpo_fast.planning.work import Work, total, work_of_batch
from iwpo_fast.world import World


class PairsToRun(NamedTuple):
    """Pairs of responses: int64 [P] each, chosen and rejected, which may be there several times."""

    responses: Responses
    chosen: np.ndarray
    rejected: np.ndarray

    @property
    def size(self) -> int:
        return len(self.chosen)

    def with_singles(self, singles: np.ndarray) -> PairsToRun:
        """With these responses, int64 [S], each as a row without another completion."""
        of, absent = self.responses, len(self.responses)
        responses = replace(
            of,
            completions=Ragged(of.completions.values, np.append(of.completions.offsets, of.completions.offsets[-1])),
            prompt_of=np.append(of.prompt_of, 0),
            present=np.append(of.there(np.arange(absent)), False),
        )
        none = np.full(len(singles), absent)
        chosen, rejected = np.concatenate([self.chosen, singles]), np.concatenate([self.rejected, none])
        return PairsToRun(responses, chosen, rejected)

    def tokens(self, layout: Layout) -> np.ndarray:
        """int64 [P], as of `Policy.tokens`."""
        of = self.responses
        prompt = of.prompts.lengths[of.prompt_of[self.chosen]]
        both = of.completions.lengths[self.chosen] + of.completions.lengths[self.rejected]
        repeated = 1 if layout == "shared" else sum(of.there(side).astype(int) for side in (self.chosen, self.rejected))
        return both + repeated * prompt

    def work(self, layout: Layout, batches: list[list[np.ndarray]]) -> Work:
        """That of micro-batches of pairs, of all ranks."""
        rows = [batch for of_rank in batches for batch in of_rank]
        both = (np.concatenate([self.chosen[some], self.rejected[some]]) for some in rows)
        return total(work_of_batch(layout, self.responses, some[self.responses.there(some)]) for some in both)


def pairs_of(responses: Responses) -> PairsToRun:
    """The pairs of the data."""
    return PairsToRun(responses, responses.chosen, responses.rejected)


def pass_work(policy: Policy, responses: Responses, tokens_per_batch: int, ranks: int) -> Work:
    """A pass over all responses, each once: log-probs and features."""
    world = World(0, ranks, torch.device("cpu"))
    batches = pass_batches(policy, responses, tokens_per_batch, world)
    return total(work_of_batch(policy.layout, responses, rows) for of_rank in batches for rows in of_rank)


def alone_work(policy: Policy, responses: Responses, rows: np.ndarray, tokens_per_batch: int) -> Work:
    """These responses, int64 [n], each by itself in one process."""
    tokens = responses.completions.lengths + responses.prompts.lengths[responses.prompt_of]
    batches = micro_batches(rows, tokens, budget=tokens_per_batch)[0] if len(rows) else []
    return total(work_of_batch(policy.layout, responses, some) for some in batches)


def evaluation_work(policy: Policy, pairs: PairsToRun, optim: OptimConfig, ranks: int) -> Work:
    """A pass over all pairs, both responses of each: what an evaluation runs."""
    return pairs.work(policy.layout, _dealt(policy.layout, pairs, np.arange(pairs.size), optim, ranks))


def training_work(policy: Policy, pairs: PairsToRun, optim: OptimConfig, seed: int, ranks: int) -> Work:
    """All optimiser steps."""
    _, steps = optimizer_steps(optim, pairs.size)

    def works() -> Iterator[Work]:
        for step in range(steps):
            rows = step_rows(pairs.size, step, pairs_per_step=optim.pairs_per_step, seed=seed)
            yield pairs.work(policy.layout, _dealt(policy.layout, pairs, rows, optim, ranks))

    return total(works())


def self_test_work(policy: Policy, pairs: PairsToRun, config: TrainConfig) -> Work:
    """The longest and the shortest pair, each alone and both together, and the first micro-batch of one process."""
    rows = step_rows(pairs.size, 0, pairs_per_step=config.optim.pairs_per_step, seed=config.seed)
    whole = pairs.tokens("flat")
    extremes = np.unique([whole.argmax(), whole.argmin()])
    first = _dealt(policy.layout, pairs, rows, config.optim, 1)[0][0]
    return pairs.work(policy.layout, [[*np.split(extremes, len(extremes)), extremes, first]])


def evaluations(config: TrainConfig, steps: int) -> int:
    """How often held-out pairs are run: before the first step, where it is due, and after the last."""
    every = config.log.eval_every
    due = {steps} | (set(range(every, steps + 1, every)) if every else set())
    return 1 + len(due)


def _dealt(
    layout: Layout, pairs: PairsToRun, rows: np.ndarray, optim: OptimConfig, ranks: int
) -> list[list[np.ndarray]]:
    tokens = pairs.tokens(layout)
    return micro_batches(rows, tokens, budget=optim.tokens_per_batch, max_pairs=optim.max_pairs_per_batch, ranks=ranks)
