"""Checks of the configuration that no type can express, before anything is read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from iwpo_fast.config import LoraConfig, ModelConfig, OptimConfig, TrainConfig
from iwpo_fast.data import cache_folder
from iwpo_fast.extras import check_installed
from iwpo_fast.models.tiny import check_shape
from iwpo_fast.objectives import Mixture
from iwpo_fast.training.trackers import check_trackers


def check_config(config: TrainConfig) -> None:
    """Raise ValueError for the first setting that cannot work, with what to set instead."""
    _check_model(config.model)
    data, objective = config.data, config.objective
    must_be = [
        (data.max_length >= 2, "data.max_length", data.max_length, "at least 2"),
        (0 <= data.eval_fraction < 1, "data.eval_fraction", data.eval_fraction, "in [0, 1)"),
        (data.limit is None or data.limit > 0, "data.limit", data.limit, "positive or null"),
        (data.workers == "auto" or data.workers >= 0, "data.workers", data.workers, "0 or more, or auto"),
        (
            0 <= objective.label_smoothing < 1,
            "objective.label_smoothing",
            objective.label_smoothing,
            "in [0, 1)",
        ),
    ]
    _check_all(must_be)
    check_optim(config.optim, "optim")
    if config.optim.name == "adamw_8bit" and config.shard_over != 1:
        raise ValueError(
            f"optim.name is adamw_8bit but shard_over is {config.shard_over}, and bitsandbytes knows no sharded "
            "parameters: set optim.name to adamw, whose moments are sharded, or shard_over to 1."
        )
    if config.model.quantize != "none" and config.shard_over != 1:
        raise ValueError(
            f"model.quantize is {config.model.quantize} but shard_over is {config.shard_over}, and quantised weights "
            "cannot be sharded: set shard_over to 1, or quantize to none."
        )
    must_be = [
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
    ]
    _check_all(must_be)
    Mixture.of(config.objective)
    check_seed(config.seed)
    check_trackers(config.log.trackers)
    check_folder("output_dir", Path(config.output_dir))
    check_folder("data.cache_dir", cache_folder(data))


def check_optim(optim: OptimConfig, name: str) -> None:
    """Raise ValueError for the first setting of an optimiser, called `name`, that cannot work."""
    if optim.name == "adamw_8bit":
        check_installed("bitsandbytes", f"{name}.name is adamw_8bit", extra="8bit")
    must_be = [
        (0 < optim.lr < math.inf, f"{name}.lr", optim.lr, "positive"),
        (0 < optim.epochs < math.inf, f"{name}.epochs", optim.epochs, "positive"),
        (
            optim.max_steps is None or optim.max_steps > 0,
            f"{name}.max_steps",
            optim.max_steps,
            "positive or null",
        ),
        (optim.pairs_per_step > 0, f"{name}.pairs_per_step", optim.pairs_per_step, "positive"),
        (optim.tokens_per_batch > 0, f"{name}.tokens_per_batch", optim.tokens_per_batch, "positive"),
        (
            optim.max_pairs_per_batch is None or optim.max_pairs_per_batch > 0,
            f"{name}.max_pairs_per_batch",
            optim.max_pairs_per_batch,
            "positive or null",
        ),
        (0 <= optim.warmup_fraction <= 1, f"{name}.warmup_fraction", optim.warmup_fraction, "in [0, 1]"),
        (0 <= optim.min_lr_fraction <= 1, f"{name}.min_lr_fraction", optim.min_lr_fraction, "in [0, 1]"),
        (0 < optim.eps < math.inf, f"{name}.eps", optim.eps, "positive"),
        (all(0 <= b < 1 for b in optim.betas), f"{name}.betas", optim.betas, "two numbers in [0, 1)"),
        (0 <= optim.weight_decay < math.inf, f"{name}.weight_decay", optim.weight_decay, "0 or more"),
        (
            optim.max_grad_norm is None or optim.max_grad_norm > 0,
            f"{name}.max_grad_norm",
            optim.max_grad_norm,
            "positive or null",
        ),
    ]
    _check_all(must_be)


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that PyTorch, NumPy or scikit-learn would refuse."""
    _check_all([(0 <= seed < 2**32, "seed", seed, "0 or more and less than 2**32")])


def check_folder(setting: str, folder: Path) -> None:
    """Raise ValueError if `folder` cannot be written to, or cannot be made; it is not made here."""
    nearest = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not nearest.is_dir():
        raise ValueError(f"{setting} is {folder} but {nearest} is a file: choose another {setting}.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{setting} is {folder} but {nearest} may not be written to: choose another {setting}.")


def _check_model(model: ModelConfig) -> None:
    if model.path == "tiny":
        check_shape(model.tiny)
        if model.revision is not None:
            raise ValueError(f"model.revision is {model.revision} but the tiny model has none: leave it out.")
    if model.offload_activations and model.gradient_checkpointing != "full":
        raise ValueError(
            f"model.offload_activations is true but model.gradient_checkpointing is {model.gradient_checkpointing}, "
            "and only inputs of layers are moved: set gradient_checkpointing to full, or leave offload_activations out."
        )
    if model.compile and model.gradient_checkpointing == "selective":
        raise ValueError(
            "model.gradient_checkpointing is selective and model.compile is true, but compiled layers recompute their "
            "cheap operations already: set gradient_checkpointing to none or full, or compile to false."
        )
    if model.quantize != "none":
        _check_quantize(model)
    if model.lora is not None:
        check_lora(model.lora, "model.lora")


def _check_quantize(model: ModelConfig) -> None:
    if model.lora is None:
        raise ValueError(
            f"model.quantize is {model.quantize} but all weights are trained, and quantised weights cannot be: "
            "set model.lora, or quantize to none."
        )
    if model.path == "tiny":
        raise ValueError(
            f"model.quantize is {model.quantize} but the tiny model is made, not read, and is small as it is: "
            "set quantize to none, or model.path to a saved model."
        )
    if model.compile:
        raise ValueError(
            f"model.quantize is {model.quantize} and model.compile is true, but products with quantised weights do not "
            "compile in reasonable time: set compile to false, or quantize to none."
        )
    check_installed("bitsandbytes", f"model.quantize is {model.quantize}", extra="qlora")


def check_lora(lora: LoraConfig, name: str) -> None:
    """Raise ValueError for the first setting of an adapter, called `name`, that cannot work."""
    _check_all(
        [
            (lora.rank > 0, f"{name}.rank", lora.rank, "positive"),
            (0 < lora.alpha < math.inf, f"{name}.alpha", lora.alpha, "positive and finite"),
            (0 <= lora.dropout < 1, f"{name}.dropout", lora.dropout, "in [0, 1)"),
        ]
    )
    if isinstance(lora.target_modules, str):
        try:
            re.compile(lora.target_modules)
        except re.error as error:
            raise ValueError(
                f"{name}.target_modules {lora.target_modules!r} is no regular expression ({error}): "
                "correct it, or give a list of names, or all-linear."
            ) from None


def _check_all(must_be: Sequence[tuple[bool, str, object, str]]) -> None:
    for holds, name, value, wanted in must_be:
        if not holds:
            raise ValueError(f"{name} is {value}: it must be {wanted}.")
