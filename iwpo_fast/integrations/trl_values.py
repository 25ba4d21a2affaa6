"""The values of a recipe of TRL's as TRL takes them: `1e-6` is a word in YAML, and a number there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

COUNTS = {
    *("per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "seed", "lora_r", "lora_alpha"),
    *("save_total_limit", "ref_model_sync_steps", "max_steps"),
}
NUMBERS = {
    *("learning_rate", "num_train_epochs", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("beta", "label_smoothing", "discopop_tau", "f_alpha_divergence_coef", "warmup_steps", "warmup_ratio"),
    *("logging_steps", "save_steps", "eval_steps", "lora_dropout", "neftune_noise_alpha", "ref_model_mixup_alpha"),
    *("desirable_weight", "undesirable_weight", "rpo_alpha"),
}
SWITCHES = {
    *("bf16", "fp16", "gradient_checkpointing", "activation_checkpointing", "activation_offloading", "load_in_4bit"),
    *("use_peft", "use_dora", "use_rslora", "sync_ref_model", "load_best_model_at_end", "greater_is_better"),
    *(
        "disable_dropout",
        "do_train",
        "eval_on_start",
        "push_to_hub",
        "hub_private_repo",
        "trust_remote_code",
        "torch_compile",
    ),
}
CHOICES = {
    "truncation_mode": ("keep_start", "keep_end"),
    "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
}
WORDS = {"optim", "lr_scheduler_type", "metric_for_best_model", "output_dir", "hub_model_id", "dataset_test_split"}
LISTS_OF_WORDS = {"loss_type", "report_to"}
TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_values(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What is set, with numbers and switches as such wherever they were written as words.

    Raises:
        ValueError: a value is none that TRL takes.
    """
    return {name: _read(name, value) for name, value in recipe.items() if value is not None}


def _read(name: str, value: Any) -> Any:
    if name in COUNTS or name in NUMBERS:
        return _number(name, value, whole=name in COUNTS)
    if name == "loss_weights":
        return [_number(name, one, whole=False) for one in (value if isinstance(value, list) else [value])]
    if name in SWITCHES:
        return _known(name, TRUTHS, str(value).lower())
    if name in CHOICES:
        return _known(name, {choice: choice for choice in CHOICES[name]}, str(value))
    if name in WORDS and not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}: give a word.")
    if name in LISTS_OF_WORDS and not _are_words(value):
        raise ValueError(f"{name} is {value!r}: give a word, or a list of words.")
    return value


def _number(name: str, value: Any, *, whole: bool) -> float | int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or (whole and number % 1):
        raise ValueError(f"{name} is {value!r}: give a {'whole ' if whole else ''}number.")
    return int(number) if whole or isinstance(value, int) else number


def _known(name: str, known: Mapping[str, Any], value: str) -> Any:
    if value not in known:
        raise ValueError(f"{name} is {value}: choose among {', '.join(known)}.")
    return known[value]


def _are_words(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
