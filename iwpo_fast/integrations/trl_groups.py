"""What a recipe of TRL's says of each group of our settings, and a note on what cannot be kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.integrations.trl_names import (
    NEEDLESS,
    OF_KTO,
    OPTIMIZERS,
    SAME,
    SCHEDULES,
    TRACKERS,
    TRUNCATIONS,
    UNPAIRED,
    Settings,
    is_lora,
)
from iwpo_fast.integrations.trl_objective import losses_of, objective_of, smooths
from iwpo_fast.objectives import Mixture
from iwpo_fast.training.best import RISE


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


def _with_sft(names: Sequence[str], every: Settings, notes: list[str]) -> Settings:
    """Losses and weights, among them what TRL before 0.29 called `rpo_alpha`, which it says is `sft` of this weight."""
    alpha, weights = every.get("rpo_alpha"), every["loss_weights"]
    if not alpha:
        return {"loss_type": names, "loss_weights": weights}
    if alpha < 0:
        raise ValueError(f"rpo_alpha is {alpha}, which is no weight of a loss that is to fall: give a positive number.")
    notes.append(
        f"rpo_alpha: {alpha} becomes the loss sft with this weight; its mean is over the chosen tokens of a step, and "
        "in TRL over those of each process and micro-batch. The first versions of TRL that had it multiplied the other "
        "loss by it"
    )
    return {"loss_type": [*names, "sft"], "loss_weights": [*(weights or [1.0] * len(names)), alpha]}


def objective(every: Settings, notes: list[str]) -> Settings:
    names = every["loss_type"]
    names = [UNPAIRED.get(name, name) for name in ([names] if isinstance(names, str) else names)]
    config = SimpleNamespace(**(every | _with_sft(names, every, notes)))
    names = list(losses_of(config))
    config.label_smoothing = smoothing = every["label_smoothing"] if smooths(names) else 0.0
    found = objective_of(config)
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


def steps(every: Settings, processes: int, notes: list[str]) -> Settings:
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


def intervals(every: Settings, notes: list[str]) -> Settings:
    """Steps between log lines, checkpoints and evaluations, for which TRL also takes epochs and shares of all steps."""
    found: Settings = {"checkpoint.every": None} if every.get("save_strategy") == "no" else {}
    for ours, setting, strategy, default in (
        ("log.every", "logging_steps", "logging_strategy", "steps"),
        ("checkpoint.every", "save_steps", "save_strategy", "steps"),
        ("log.eval_every", "eval_steps", "eval_strategy", "no"),
    ):
        how = every.get(strategy, default)
        steps = every.get(setting)
        if setting == "eval_steps":
            steps = steps or every["logging_steps"]  # as TRL has it
        if setting == "save_steps" and how == "steps" and steps == 0:  # in TRL only the last step is saved then
            found[ours] = None
        elif how == "steps" and isinstance(steps, int | float) and steps >= 1:
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


def model(every: Settings, notes: list[str]) -> Settings:
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
    found = {SAME[name]: every[name] for name in SAME if is_lora(name) and name in every}
    modules = every.get("lora_target_modules")
    if modules is None:
        notes.append(
            "lora_target_modules is not set, where peft adapts the layers that it knows of a model, often q_proj and "
            "v_proj: all-linear stands in its place, so set model.lora.target_modules to adapt fewer"
        )
    elif isinstance(modules, list) and len(modules) == 1:
        found["model.lora.target_modules"] = modules[0]
    return {"model.lora.rank": 16, "model.lora.alpha": 32, "model.lora.dropout": 0.05} | found


def moving(every: Settings, notes: list[str]) -> Settings:
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


def best(every: Settings, settings: Settings, notes: list[str]) -> Settings:
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


def hub(every: Settings, notes: list[str]) -> Settings:
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


def data(every: Settings, notes: list[str]) -> Settings:
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


def needless(given: Settings) -> list[str]:
    """Notes on settings that have no counterpart and need none, and on those among them that differ all the same."""
    different = dict(_different(given))
    same = sorted(given.keys() & NEEDLESS - different.keys())
    alike = f"left out, because nothing need be set in their place: {', '.join(same)}"
    return [*different.values(), *([alike] if same else [])]


def _different(given: Settings) -> Iterator[tuple[str, str]]:
    if given.get("disable_dropout") is False:
        yield (
            "disable_dropout",
            "disable_dropout: false is not kept, because the model's own dropout is always off here",
        )
    for name in ("dtype", "torch_dtype"):
        if given.get(name, "float32") != "float32":
            yield (
                name,
                f"{name}: {given[name]} is not kept, because weights that are trained are float32 here: "
                "model.precision says what is computed in",
            )
    if given.get("do_train") is False:
        yield "do_train", "do_train: false keeps neither trl dpo nor iwpo train from training: --dry_run does here"
    if given.get("eval_on_start") is False and given.get("eval_strategy", "no") != "no":
        yield (
            "eval_on_start",
            "eval_on_start: false is not kept, because held-out pairs are always evaluated before the first step here",
        )


def _one_of(known: Mapping[str, str], name: str, every: Settings, instead: str, notes: list[str]) -> str:
    value = every[name]
    if value not in known:
        notes.append(f"{name}: {value} has no counterpart here: {instead} stands in its place")
    return known.get(value, instead)
