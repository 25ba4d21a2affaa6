"""Supervised warm-up: a tiny model learns completions of all qualities, so that there is something to align."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from iwpo_fast.config import DataConfig, ModelConfig, OptimConfig
from iwpo_fast.data import Pairs, read_rows, tokenise
from iwpo_fast.data.batch import flat_batch
from iwpo_fast.data.order import micro_batches, step_rows
from iwpo_fast.files import written_aside
from iwpo_fast.finite import backward
from iwpo_fast.models import Policy, load_policy, load_tokenizer
from iwpo_fast.optimisation import fit, optimizer_steps
from iwpo_fast.world import World


def warm_up(
    data: DataConfig, model: ModelConfig, optim: OptimConfig, *, output: Path, seed: int, device: str = "auto"
) -> float:
    """Train a model on both completions of every row, and save it and its tokenizer as an ordinary model folder.

    The preference format carries the text: `data.columns` names the two completions as chosen and rejected, and both
    are supervised alike.

    Returns:
        Mean loss of the last tenth of the steps, in nats per token.
    """
    world = World.start(device)
    rows, _ = read_rows(data)
    tokenizer = load_tokenizer(model, rows.texts())
    pairs, _ = tokenise(rows, tokenizer, data)
    policy = load_policy(model, tokenizer, world, seed=seed)
    losses = supervise(policy, pairs, optim, seed=seed)
    with written_aside(output) as aside:
        policy.save(aside, tokenizer)
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))


def supervise(policy: Policy, pairs: Pairs, optim: OptimConfig, *, seed: int) -> list[float]:
    """Minimise the mean negative log-prob of the supervised tokens of both completions; the loss of each step."""
    _, steps = optimizer_steps(optim, len(pairs))

    def accumulate(step: int) -> float:
        rows = step_rows(len(pairs), step, pairs_per_step=optim.pairs_per_step, seed=seed)
        tokens = int(pairs.tokens_trained[rows].sum())
        total = 0.0
        for part in micro_batches(rows, policy.tokens(pairs), budget=optim.tokens_per_batch)[0]:
            loss = -policy(flat_batch(pairs, part).to(policy.device)).sum() / tokens
            backward(loss)
            total += float(loss.detach())
        return total

    policy.train()
    return fit(policy.trainable_parameters(), optim, steps, accumulate, what="warm-up")
