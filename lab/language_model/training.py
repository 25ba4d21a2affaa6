"""Preference training of an arm, by the library's own step."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
from tqdm.auto import trange

from iwpo_fast.config import DataConfig, ObjectiveConfig, TrainConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.unique import Responses
from iwpo_fast.models import Policy
from iwpo_fast.models.reference import with_reference
from iwpo_fast.optimisation import make_optimizer, set_learning_rate
from iwpo_fast.training.checkpoint import TrainState
from iwpo_fast.training.job import Job, batches_ahead
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.training.metrics import PreferenceMetrics
from iwpo_fast.training.step import train_step
from iwpo_fast.world import World
from lab.exact.policy import ArmData
from lab.language_model.settings import LabSettings
from lab.language_model.world import LabWorld


def train_arm(world: LabWorld, data: ArmData, settings: LabSettings) -> Policy:
    """A trained copy of the supervised policy."""
    pairs, alone = arm_pairs(world, data), World.start("cpu")
    optim = replace(settings.optim, pairs_per_step=round(settings.optim.pairs_per_step * len(pairs) / len(world.pairs)))
    loss = PreferenceLoss(objective_of(data, settings.beta))
    smoothing = 0.0 if pairs.label_smoothing is None else pairs.label_smoothing
    loss.mixture.check_columns(pairs.columns, smoothing, "the world's pairs")
    config = TrainConfig(
        data=DataConfig(path=""), objective=objective_of(data, settings.beta), optim=optim, seed=world.seed
    )
    policy = copy.deepcopy(world.policy)
    if pairs.ref_logps is None and loss.mixture.uses_reference:
        pairs = with_reference(policy, pairs, alone, world.cache, tokens_per_batch=optim.tokens_per_batch)
    optimizer = make_optimizer(policy.trainable_parameters(), optim)
    state, metrics = TrainState(), PreferenceMetrics(alone.device)

    job = Job(config, alone, policy, loss, pairs)
    batches = batches_ahead(job, map(job.rows_of_step, range(settings.steps)))
    for step in trange(settings.steps, desc="preference training", unit="step"):
        state.step = step
        set_learning_rate(optimizer, step, settings.steps, optim)
        train_step(job, job.rows_of_step(step), batches, optimizer, state, metrics)
    return policy


def arm_pairs(world: LabWorld, data: ArmData) -> Pairs:
    """The world's pairs, or those of the arm, with the columns of the arm alone.

    Reward gaps are the scores of chosen over a rejected one of 0.
    """
    pairs = replace(world.pairs, candidates=None)
    if data.completions is not None:
        pairs = _pairs_of(world.responses, *data.completions.numpy().T)
    columns = {}
    if data.targets is not None:
        gaps = data.targets.double().numpy()
        columns = {"score_chosen": gaps, "score_rejected": np.zeros_like(gaps)}
    smoothing = data.smoothing.double().numpy()
    return replace(
        pairs,
        weight=data.weights.double().numpy(),
        label_smoothing=smoothing if smoothing.any() else None,
        columns=columns,
    )


def _pairs_of(responses: Responses, chosen: np.ndarray, rejected: np.ndarray) -> Pairs:
    """Pairs of the given responses [n], without reference log-probs."""
    return Pairs(
        responses.prompts.take(responses.prompt_of[chosen]),
        responses.completions.take(chosen),
        responses.completions.take(rejected),
        weight=np.ones(len(chosen)),
    )


def objective_of(data: ArmData, beta: float) -> ObjectiveConfig:
    """The library's objective for what the exact laboratory calls an arm.

    Raises:
        ValueError: it is one of the exact laboratory alone, which is a function.
    """
    if data.objective is not None:
        raise ValueError("This arm trains on a function of log-probs, which is of the exact laboratory alone.")
    if data.wpo:
        return ObjectiveConfig(name="wpo", beta=beta)
    if data.targets is None and not data.forward_kl:
        return ObjectiveConfig(name="sigmoid", beta=beta)
    if not data.forward_kl:
        return ObjectiveConfig(name="d_dpo", beta=beta)
    return ObjectiveConfig(
        name="p_dpo" if data.targets is None else "e_dpo", beta=beta, params={"gamma": data.forward_kl}
    )
