"""The training loop of iwpo_fast, without its files and reports."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.training.case import (
    BETA,
    BETAS,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    SEED,
    Case,
    Job,
    build_model,
    with_adapters,
)
from benchmarks.training.gate import Gate
from iwpo_fast.config import DataConfig, ObjectiveConfig, OptimConfig, TrainConfig
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.models.attention import backends
from iwpo_fast.models.attention.flash import PACKAGES
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.reference import with_reference
from iwpo_fast.optimisation import make_optimizer
from iwpo_fast.training.checkpoint import TrainState
from iwpo_fast.training.job import Job as Training
from iwpo_fast.training.job import batches_ahead
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.training.metrics import PreferenceMetrics
from iwpo_fast.training.step import train_step
from iwpo_fast.world import World

LOG_EVERY = 10  # the default of LogConfig


def train(job: Job, gate: Gate) -> None:
    """Flat batches, one micro-batch of at most `micro_pairs` pairs after the other."""
    world, policy = _world(job.case), _policy(job.case)
    config = TrainConfig(
        data=DataConfig(path=""),
        objective=ObjectiveConfig(name="sigmoid", beta=BETA),
        optim=OptimConfig(
            lr=LEARNING_RATE,
            betas=BETAS,
            max_grad_norm=MAX_GRAD_NORM,
            pairs_per_step=job.case.pairs_per_step,
            tokens_per_batch=2**40,
            max_pairs_per_batch=job.micro_pairs,
        ),
        seed=SEED,
    )
    loss = PreferenceLoss(config.objective)
    metrics, state = PreferenceMetrics(world.device), TrainState()
    going = gate.ready(policy)
    optimizer = make_optimizer(policy.trainable_parameters(), config.optim)
    training = Training(config, world, policy, loss, replace(job.pairs, ref_logps=job.reference))
    batches = batches_ahead(training, map(job.rows, range(job.steps)))
    while going:
        train_step(training, job.rows(state.step), batches, optimizer, state, metrics)
        state.step += 1
        if state.step % LOG_EVERY == 0:
            metrics.compute(world)
        going = gate.step_done(lambda: metrics.compute(world))


def reference(case: Case, pairs: Pairs) -> np.ndarray:
    """float32 [P, 2], log-probs under the model before training."""
    budget = max(case.micro_pairs) * int(pairs.tokens.max())
    with tempfile.TemporaryDirectory() as cache:
        policy = _policy(case)
        policy.fingerprint = ""  # nothing in this cache is found again, so no weights need hashing
        pairs = with_reference(policy, pairs, _world(case), Path(cache), tokens_per_batch=budget)
    assert pairs.ref_logps is not None
    return pairs.ref_logps


def _world(case: Case) -> World:
    return World(0, 1, torch.empty(0, device=case.device).device)  # with its number, as `World.start` has it


def _policy(case: Case) -> Policy:
    policy = Policy(with_adapters(case, build_model(case)), case.compute_dtype).to(case.device)
    # Prompts are shared where `model.share_prompts: auto` shares them. Attention is PyTorch's own, as the peers' is.
    backend = next(name for name in backends(policy.device, case.compute_dtype) if name not in PACKAGES)
    policy.run_flat("known to fit", backend, share_prompts=policy.device.type == "cpu")
    return policy.train()
