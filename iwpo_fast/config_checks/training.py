"""Rules of the optimiser, of processes, of what is reported and of what is kept."""

from __future__ import annotations

from importlib.util import find_spec

from iwpo_fast.config import OptimConfig, RunConfig, TrainConfig
from iwpo_fast.config_checks.held_out import holds_nothing_out
from iwpo_fast.config_checks.unread import refuse_unread
from iwpo_fast.extras import check_installed
from iwpo_fast.objectives import Mixture
from iwpo_fast.objectives.registry import Reads


def check_optim(optim: OptimConfig, name: str) -> None:
    if optim.name == "adamw_8bit":
        check_installed("bitsandbytes", f"{name}.name is adamw_8bit", extra="8bit")
    if optim.schedule == "constant":
        reason = f"{name}.schedule is constant, which stays at its peak"
        refuse_unread(optim, name, ["min_lr_fraction"], reason, "choose another schedule")


def check_context(config: TrainConfig) -> None:
    processes, model = config.context_parallel, config.model
    if processes == 1:
        return
    if model.batch_layout == "padded":
        raise ValueError(
            f"context_parallel is {processes} and model.batch_layout is padded, but only flat batches are split: set "
            "batch_layout to auto or flat, or context_parallel to 1."
        )
    if model.neftune_alpha is not None:
        raise ValueError(
            f"context_parallel is {processes} and model.neftune_alpha is {model.neftune_alpha}, but the noise of a "
            "sequence is drawn in one process: leave neftune_alpha out, or set context_parallel to 1."
        )


def check_log(config: TrainConfig) -> None:
    log = config.log
    for name in log.trackers:
        if find_spec(name) is None:
            raise ValueError(f"log.trackers names {name}, which is not installed: pip install {name}.")
    if not {"wandb", "trackio"} & set(log.trackers):
        reason = "log.trackers names neither wandb nor trackio, which alone have one"
        refuse_unread(log, "log", ["project"], reason, "add one of them")
    if not log.samples:
        reason = "log.samples is 0, so no prompt is answered"
        refuse_unread(log, "log", ["sample_tokens"], reason, "set log.samples")
    else:
        _check_evaluated(config, "log.samples", log.samples)


def check_best(config: TrainConfig) -> None:
    kept = config.checkpoint
    if kept.best is None:
        reason = "checkpoint.best is null, so no evaluation is better than another"
        refuse_unread(kept, "checkpoint", ["patience"], reason, "set checkpoint.best")
        return
    if config.reference_sync is not None:
        raise ValueError(
            f"checkpoint.best is {kept.best} and reference_sync is set, but evaluations on two sides of a move are "
            "against two references, and none is better than the other: leave one of the two out."
        )
    if config.log.eval_every is None:
        raise ValueError(
            f"checkpoint.best is {kept.best} and log.eval_every is null, so there is one evaluation, after the last "
            "step: set log.eval_every, or leave checkpoint.best out."
        )
    _check_evaluated(config, "checkpoint.best", kept.best)


def _check_evaluated(config: TrainConfig, setting: str, value: object) -> None:
    """Raise ValueError if the setting is about evaluations while training, and there are none."""
    if isinstance(config, RunConfig) and Mixture.of(config.objective).reads(Reads.SCORES):
        raise ValueError(
            f"{setting} is {value}, but held-out pairs have no scores, which {config.objective.name} reads: leave "
            f"{setting} out."
        )
    if holds_nothing_out(config):
        raise ValueError(
            f"{setting} is {value}, but nothing is held out: set data.eval_fraction to more than 0, name "
            f"data.eval_path, or leave {setting} out."
        )
