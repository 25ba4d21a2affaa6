"""Checks of the configuration that no type can express, before anything is read."""

from __future__ import annotations

from iwpo_fast.config import TrainConfig
from iwpo_fast.objectives import get_objective
from iwpo_fast.training.trackers import check_trackers


def check_config(config: TrainConfig) -> None:
    """Raise ValueError for the first setting that cannot work, with what to set instead."""
    get_objective(config.objective.name)
    data, objective, optim = config.data, config.objective, config.optim
    must_be = [
        (data.max_length >= 2, "data.max_length", data.max_length, "at least 2"),
        (0 <= data.eval_fraction < 1, "data.eval_fraction", data.eval_fraction, "in [0, 1)"),
        (data.limit is None or data.limit > 0, "data.limit", data.limit, "positive or null"),
        (objective.beta > 0, "objective.beta", objective.beta, "positive"),
        (
            0 <= objective.label_smoothing < 1,
            "objective.label_smoothing",
            objective.label_smoothing,
            "in [0, 1)",
        ),
        (optim.lr > 0, "optim.lr", optim.lr, "positive"),
        (optim.epochs > 0, "optim.epochs", optim.epochs, "positive"),
        (
            optim.max_steps is None or optim.max_steps > 0,
            "optim.max_steps",
            optim.max_steps,
            "positive or null",
        ),
        (optim.pairs_per_step > 0, "optim.pairs_per_step", optim.pairs_per_step, "positive"),
        (optim.tokens_per_batch > 0, "optim.tokens_per_batch", optim.tokens_per_batch, "positive"),
        (
            optim.max_pairs_per_batch is None or optim.max_pairs_per_batch > 0,
            "optim.max_pairs_per_batch",
            optim.max_pairs_per_batch,
            "positive or null",
        ),
        (0 <= optim.warmup_fraction <= 1, "optim.warmup_fraction", optim.warmup_fraction, "in [0, 1]"),
        (0 <= optim.min_lr_fraction <= 1, "optim.min_lr_fraction", optim.min_lr_fraction, "in [0, 1]"),
        (optim.eps > 0, "optim.eps", optim.eps, "positive"),
        (all(0 <= b < 1 for b in optim.betas), "optim.betas", optim.betas, "two numbers in [0, 1)"),
        (optim.weight_decay >= 0, "optim.weight_decay", optim.weight_decay, "0 or more"),
        (
            optim.max_grad_norm is None or optim.max_grad_norm > 0,
            "optim.max_grad_norm",
            optim.max_grad_norm,
            "positive or null",
        ),
        (config.log.every > 0, "log.every", config.log.every, "positive"),
        (
            config.log.eval_every is None or config.log.eval_every > 0,
            "log.eval_every",
            config.log.eval_every,
            "positive or null",
        ),
        (
            config.checkpoint.every is None or config.checkpoint.every > 0,
            "checkpoint.every",
            config.checkpoint.every,
            "positive or null",
        ),
        (config.checkpoint.keep > 0, "checkpoint.keep", config.checkpoint.keep, "positive"),
        (config.seed >= 0, "seed", config.seed, "0 or more"),
    ]
    for holds, name, value, wanted in must_be:
        if not holds:
            raise ValueError(f"{name} is {value}: it must be {wanted}.")
    check_trackers(config.log.trackers)
