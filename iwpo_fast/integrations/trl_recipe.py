"""A recipe of TRL's `trl dpo` or `trl kto` in the settings of `iwpo train`. TRL itself need not be installed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import yaml

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.integrations.trl_objective import objective_of, smooths
from iwpo_fast.integrations.trl_values import read_values
from iwpo_fast.objectives import Mixture
from iwpo_fast.training.best import RISE

Settings = dict[str, Any]

DEFAULTS: Settings = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-6,
    "num_train_epochs": 3.0,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "max_length": 1024,
    "truncation_mode": "keep_start",
    "gradient_checkpointing": True,
    "seed": 42,
    "beta": 0.1,
    "loss_type": ["sigmoid"],
    "loss_weights": None,
    "label_smoothing": 0.0,
    "discopop_tau": 0.05,
    "f_divergence_type": "reverse_kl",
    "f_alpha_divergence_coef": 0.5,
    "logging_steps": 10,
    "save_steps": 500,
}
"""TRL 1.16's own, where this library's are others."""

SAME = {
    "model_name_or_path": "model.path",
    "model_revision": "model.revision",
    "trust_remote_code": "model.trust_remote_code",
    "dataset_name": "data.path",
    "dataset_config": "data.name",
    "dataset_train_split": "data.split",
    "output_dir": "output_dir",
    "learning_rate": "optim.lr",
    "num_train_epochs": "optim.epochs",
    "weight_decay": "optim.weight_decay",
    "adam_epsilon": "optim.eps",
    "max_grad_norm": "optim.max_grad_norm",
    "max_length": "data.max_length",
    "seed": "seed",
    "save_total_limit": "checkpoint.keep",
    "project": "log.project",
    "lora_r": "model.lora.rank",
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    "lora_target_modules": "model.lora.target_modules",
    "lora_modules_to_save": "model.lora.modules_to_save",
    "use_dora": "model.lora.dora",
    "use_rslora": "model.lora.rslora",
    "neftune_noise_alpha": "model.neftune_alpha",
    "torch_compile": "model.compile",
}
"""Settings that mean the same under another name."""

BESIDE = {"logging_strategy", "save_strategy", "eval_strategy", "use_peft", "bf16", "warmup_ratio"}
"""What is read with others."""

NEEDLESS = {
    *("padding_free", "precompute_ref_log_probs", "precompute_ref_batch_size", "pad_token", "pad_to_multiple_of"),
    *("use_liger_kernel", "liger_kernel_config", "remove_unused_columns", "dataset_num_proc", "dataset_streaming"),
    *("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs", "attn_implementation"),
    *("dataloader_num_workers", "dataloader_pin_memory", "do_train", "do_eval", "overwrite_output_dir"),
    *("per_device_eval_batch_size", "logging_first_step", "ddp_find_unused_parameters", "tf32", "disable_tqdm"),
    *("auto_find_batch_size", "disable_dropout", "dtype", "torch_dtype", "log_level", "lora_task_type"),
    *("eval_on_start", "average_tokens_across_devices", "group_by_length"),
}
"""What `iwpo train` does by itself or needs no setting for."""

OPTIMIZERS = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_8bit": "adamw_8bit"}
OPTIMIZERS |= dict.fromkeys(("adamw_bnb_8bit", "paged_adamw_8bit"), "adamw_8bit")
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
TRACKERS = ("tensorboard", "wandb", "trackio")
TRUNCATIONS = {"keep_start": "truncate_completion", "keep_end": "truncate_prompt_left"}


OF_KTO = {"desirable_weight": "desirable", "undesirable_weight": "undesirable"}
"""Settings that recipes of `trl kto` alone have, and the parameters of our `kto`."""
UNPAIRED = {"apo_zero_unpaired": "apo_zero"}
"""Losses that `trl kto` names otherwise."""


class Translated(NamedTuple):
    """A recipe of ours, by dotted names, and what could not be kept, a sentence each."""

    settings: Settings
    notes: list[str]

    def yaml(self) -> str:
        """As a file for `iwpo train --config`, with the notes in front."""
        nested: Settings = {}
        for name, value in self.settings.items():
            *parents, key = name.split(".")
            place = nested
            for parent in parents:
                place = place.setdefault(parent, {})
            place[key] = value
        head = "".join(f"# {note}\n" for note in self.notes)
        return head + yaml.safe_dump(nested, sort_keys=False)


def translated_file(path: str) -> Translated:
    """The recipe in a file.

    Raises:
        ValueError: the file cannot be read, or is no mapping of settings.
    """
    try:
        recipe = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise ValueError(f"from_trl {path} cannot be read ({reason}): give a YAML recipe of trl dpo.") from error
    if not isinstance(recipe, dict) or not all(isinstance(name, str) for name in recipe):
        raise ValueError(f"from_trl {path} holds no settings: give a YAML recipe of trl dpo.")
    return translated(recipe)


def translated(recipe: Mapping[str, Any], processes: int | None = None) -> Translated:
    """A recipe of TRL's, with TRL's defaults for what it leaves out.

    Args:
        processes: that it is to run on; None takes `WORLD_SIZE`, or 1.

    Raises:
        ValueError: its loss cannot be had here, or a value is none that TRL takes.
    """
    given = read_values(recipe)
    if "activation_checkpointing" in given:
        given.setdefault("gradient_checkpointing", given.pop("activation_checkpointing"))
    if not given.keys().isdisjoint(OF_KTO):
        given.setdefault("loss_type", "kto")
    every = DEFAULTS | given
    processes = processes or int(os.environ.get("WORLD_SIZE", "1"))
    notes: list[str] = []
    settings = {ours: every[theirs] for theirs, ours in SAME.items() if theirs in every and not _is_lora(theirs)}
    if "max_length" in recipe and "max_length" not in given:
        notes.append(
            "max_length: null cuts nothing in TRL, and here a length must be set: data.max_length is "
            f"{every['max_length']}"
        )
    settings |= _objective(every, notes) | _steps(every, processes, notes) | _model(every, notes) | _data(every, notes)
    settings |= _intervals(every, notes)
    settings |= _moving(every, notes) | _best(every, settings, notes) | _hub(every, notes)
    kept_dropout = {"disable_dropout"} if given.get("disable_dropout") is False else set()
    notes += [f"{name}: false is not kept, because the model's own dropout is always off here" for name in kept_dropout]
    if needless := sorted(given.keys() & NEEDLESS - kept_dropout):
        notes.append(f"left out, because nothing need be set in their place: {', '.join(needless)}")
    read = READ | OF_KTO.keys() if settings["objective.name"] == "kto" else READ
    unread = sorted(given.keys() - read)
    notes += [f"{name}: {given[name]} has no counterpart here and is left out" for name in unread]
    return Translated(_in_order(settings), notes)


def _is_lora(name: str) -> bool:
    return SAME[name].startswith("model.lora.")


def _not_smoothed(names: Sequence[str], smoothing: float, found: ObjectiveConfig) -> str:
    """The sentence about a label smoothing that TRL's losses do not read as this library reads one."""
    note = (
        f"label_smoothing: {smoothing} is not kept, because TRL's {' and '.join(names)} does not read it as the "
        "probability of a flipped label"
    )
    try:
        Mixture.of(replace(found, label_smoothing=smoothing))
    except ValueError:
        return note
    return f"{note}: set objective.label_smoothing to {smoothing} if it is meant as that"


def _objective(every: Settings, notes: list[str]) -> Settings:
    names = every["loss_type"]
    names = [UNPAIRED.get(name, name) for name in ([names] if isinstance(names, str) else names)]
    smoothing = every["label_smoothing"] if smooths(names) else 0.0
    found = objective_of(SimpleNamespace(**(every | {"loss_type": names, "label_smoothing": smoothing})))
    if names == ["kto"]:
        found.params |= {ours: every[theirs] for theirs, ours in OF_KTO.items() if theirs in every}
    Mixture.of(found)  # says what is no objective
    if smoothing != every["label_smoothing"]:
        notes.append(_not_smoothed(names, every["label_smoothing"], found))
    default = ObjectiveConfig()
    return {
        f"objective.{name}": value
        for name, value in vars(found).items()
        if name == "name" or value != getattr(default, name)
    }


def _steps(every: Settings, processes: int, notes: list[str]) -> Settings:
    """Size and number of steps, schedule and optimiser."""
    pairs = every["per_device_train_batch_size"] * every["gradient_accumulation_steps"] * processes
    if processes == 1:
        notes.append(
            "pairs_per_step counts the pairs of all processes: multiply it by theirs, or call this with WORLD_SIZE set"
        )
    found: Settings = {"optim.pairs_per_step": pairs, "optim.betas": [every["adam_beta1"], every["adam_beta2"]]}
    if every.get("max_steps", -1) > 0:
        found |= _all_steps(every["max_steps"], notes)
    found["optim.schedule"] = _one_of(SCHEDULES, "lr_scheduler_type", every, "cosine", notes)
    if found["optim.schedule"] == "constant" and every["lr_scheduler_type"] == "constant":
        found["optim.warmup_fraction"] = 0.0
    else:
        found["optim.warmup_fraction"] = _warmup(every, notes)
    found["optim.name"] = _one_of(OPTIMIZERS, "optim", {"optim": "adamw_torch"} | every, "adamw", notes)
    trackers = every.get("report_to", "none")
    trackers = [trackers] if isinstance(trackers, str) else trackers
    found["log.trackers"] = [name for name in trackers if name in TRACKERS]
    notes += [
        f"report_to: {name} has no counterpart here and is left out"
        for name in trackers
        if name not in (*TRACKERS, "none")
    ]
    return found


def _all_steps(steps: int, notes: list[str]) -> Settings:
    """So many steps, however few pairs there are: an epoch has one step at least."""
    notes.append(
        f"max_steps: {steps} overrides num_train_epochs in TRL and ends optim.epochs here: {steps} epochs are enough "
        "for as many steps, whatever the number of pairs"
    )
    return {"optim.max_steps": steps, "optim.epochs": float(steps)}


def _intervals(every: Settings, notes: list[str]) -> Settings:
    """Steps between log lines, checkpoints and evaluations, for which TRL also takes epochs and shares of all steps."""
    found: Settings = {"checkpoint.every": None} if every.get("save_strategy") == "no" else {}
    for ours, setting, strategy, default in (
        ("log.every", "logging_steps", "logging_strategy", "steps"),
        ("checkpoint.every", "save_steps", "save_strategy", "steps"),
        ("log.eval_every", "eval_steps", "eval_strategy", "no"),
    ):
        how = every.get(strategy, default)
        steps = every.get(setting) or every["logging_steps"]  # as TRL has it for evaluations
        if how == "steps" and isinstance(steps, int | float) and steps >= 1:
            found[ours] = int(steps)
        elif how != "no":
            what = f"{strategy}: {how}" if how != "steps" else f"{setting}: {steps}"
            notes.append(f"{what} is no number of steps: set {ours} to one")
    return found


def _warmup(every: Settings, notes: list[str]) -> float:
    """TRL takes a number of steps, or a fraction of them below 1."""
    ratio = every.get("warmup_ratio") or every["warmup_steps"]
    if ratio < 1:
        return float(ratio)
    if every.get("max_steps", -1) > 0:
        return round(ratio / every["max_steps"], 6)
    notes.append(f"warmup_steps: {ratio} is a number of steps: set optim.warmup_fraction to its share of all steps")
    return 0.0


def _model(every: Settings, notes: list[str]) -> Settings:
    found: Settings = {"model.gradient_checkpointing": "full" if every["gradient_checkpointing"] else "none"}
    if every.get("bf16") is False and not every.get("fp16"):
        found["model.precision"] = "fp32"
    if every.get("fp16"):
        notes.append("fp16: true has no counterpart here: bf16 is computed in on a GPU")
    if every.get("activation_offloading"):
        found["model.offload_activations"] = True
    if every.get("use_peft"):
        found |= _lora(every, notes)
    if every.get("load_in_4bit"):
        found["model.quantize"] = "nf4"
    return found


def _lora(every: Settings, notes: list[str]) -> Settings:
    """TRL's defaults and what is given; it takes a list of one name as that name, which may stand for all layers."""
    found = {SAME[name]: every[name] for name in SAME if _is_lora(name) and name in every}
    modules = every.get("lora_target_modules")
    if modules is None:
        notes.append(
            "lora_target_modules is not set, where peft adapts the layers that it knows of a model, often q_proj and "
            "v_proj: all-linear stands in its place, so set model.lora.target_modules to adapt fewer"
        )
    elif isinstance(modules, list) and len(modules) == 1:
        found["model.lora.target_modules"] = modules[0]
    return {"model.lora.rank": 16, "model.lora.alpha": 32, "model.lora.dropout": 0.05} | found


def _moving(every: Settings, notes: list[str]) -> Settings:
    """A reference that moves; with an adapter TRL has none."""
    if not every.get("sync_ref_model"):
        return {}
    alpha, steps = every.get("ref_model_mixup_alpha", 0.6), every.get("ref_model_sync_steps", 512)
    if every.get("use_peft") and alpha != 1:
        notes.append(
            f"ref_model_mixup_alpha: {alpha} becomes 1, because an adapter is trained, of which the mean of two is not "
            "the mean of what they do"
        )
        alpha = 1.0
    return {"reference_sync.alpha": alpha, "reference_sync.steps": steps}


def _best(every: Settings, settings: Settings, notes: list[str]) -> Settings:
    """The checkpoint that is saved; TRL's metrics have `eval_` before them or not."""
    if not every.get("load_best_model_at_end"):
        return {}
    metric = every.get("metric_for_best_model", "loss")
    metric = metric if metric.startswith("eval_") else f"eval_{metric}"
    if metric not in ("eval_loss", *RISE):
        notes.append(f"metric_for_best_model: {metric} has no counterpart here: eval_loss stands in its place")
        metric = "eval_loss"
    if every.get("greater_is_better") not in (None, metric in RISE):
        notes.append(
            f"greater_is_better: {every['greater_is_better']} is not kept, because {metric} says which is better"
        )
    if every.get("sync_ref_model"):
        notes.append("load_best_model_at_end: true is not kept, because sync_ref_model changes what evaluations mean")
        return {}
    if "log.eval_every" not in settings:
        notes.append("load_best_model_at_end: true needs evaluations: set log.eval_every and checkpoint.best")
        return {}
    return {"checkpoint.best": metric}


def _hub(every: Settings, notes: list[str]) -> Settings:
    """Where the model is sent; a token stays in the recipe that it is in."""
    if "hub_token" in every:
        notes.append("hub_token is not kept: run hf auth login")
    if not every.get("push_to_hub"):
        return {}
    if every.get("hub_private_repo") is False:
        notes.append("hub_private_repo: false is not kept: a repository that is made is private, until you change it")
    if every.get("hub_strategy", "end") != "end":
        notes.append(f"hub_strategy: {every['hub_strategy']} is not kept: the model is sent once, when it is trained")
    return {"push_to_hub": every.get("hub_model_id") or Path(every.get("output_dir", "trained")).name}


def _data(every: Settings, notes: list[str]) -> Settings:
    found: Settings = {"data.truncation": TRUNCATIONS[every["truncation_mode"]]}
    if every["truncation_mode"] == "keep_end":
        notes.append(
            "truncation_mode: keep_end cuts prompt and completion alike from the left; truncate_prompt_left cuts the "
            "prompt from the left, and a completion that is too long by itself from the right"
        )
    if every.get("eval_strategy", "no") == "no":
        found["data.eval_fraction"] = 0.0
    else:
        found["data.eval_split"] = every.get("dataset_test_split", "test")
    return found


def _one_of(known: Mapping[str, str], name: str, every: Settings, instead: str, notes: list[str]) -> str:
    value = every[name]
    if value not in known:
        notes.append(f"{name}: {value} has no counterpart here: {instead} stands in its place")
    return known.get(value, instead)


def _in_order(settings: Settings) -> Settings:
    """By group, in the order of the configuration."""
    parts = ("data", "model", "objective", "reference_sync", "optim", "log", "checkpoint")
    groups = (*parts, "output_dir", "seed", "push_to_hub")
    return dict(sorted(settings.items(), key=lambda item: groups.index(item[0].split(".")[0])))


READ: set[str] = {
    *DEFAULTS,
    *SAME,
    *NEEDLESS,
    *BESIDE,
    *("max_steps", "optim", "eval_steps", "report_to", "fp16", "activation_offloading", "load_in_4bit"),
    "dataset_test_split",
    *("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_token"),
}


def asked_for(arguments: Sequence[str]) -> str | None:
    """The file that `iwpo train --from_trl FILE` names; None for every other call.

    Raises:
        ValueError: it names none, or stands beside other settings.
    """
    flags = [word for word in arguments[1:] if word.partition("=")[0] == "--from_trl"]
    if list(arguments[:1]) not in (["train"], ["run"]) or not flags:
        return None
    *_, path = [word.removeprefix("--from_trl=") for word in arguments[1:]]
    if len(arguments) != (2 if "=" in flags[0] else 3) or path.startswith("--"):
        raise ValueError("from_trl takes one file and no other setting: write iwpo train --from_trl FILE > ours.yaml.")
    return path
