"""The name that somebody meant who wrote one that does not exist."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

LEAST_LIKENESS = 0.7
"""Of two names, as difflib measures it, for one to be meant by the other."""

ELSEWHERE = {
    "learning_rate": "optim.lr",
    "num_train_epochs": "optim.epochs",
    "num_epochs": "optim.epochs",
    "batch_size": "optim.pairs_per_step",
    "train_batch_size": "optim.pairs_per_step",
    "per_device_train_batch_size": "optim.pairs_per_step",
    "gradient_accumulation_steps": "optim.pairs_per_step",
    "lr_scheduler_type": "optim.schedule",
    "warmup_ratio": "optim.warmup_fraction",
    "warmup_steps": "optim.warmup_fraction",
    "adam_epsilon": "optim.eps",
    "optimizer": "optim.name",
    "model": "model.path",
    "model_name": "model.path",
    "model_name_or_path": "model.path",
    "bf16": "model.precision",
    "load_in_4bit": "model.quantize",
    "use_peft": "model.lora.rank",
    "lora_r": "model.lora.rank",
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    "lora_target_modules": "model.lora.target_modules",
    "lora_modules_to_save": "model.lora.modules_to_save",
    "use_dora": "model.lora.dora",
    "use_rslora": "model.lora.rslora",
    "neftune_noise_alpha": "model.neftune_alpha",
    "ref_model": "model.reference",
    "adapter_name_or_path": "model.adapter",
    "sync_ref_model": "reference_sync.steps",
    "ref_model_mixup_alpha": "reference_sync.alpha",
    "ref_model_sync_steps": "reference_sync.steps",
    "load_best_model_at_end": "checkpoint.best",
    "metric_for_best_model": "checkpoint.best",
    "early_stopping_patience": "checkpoint.patience",
    "hub_model_id": "push_to_hub",
    "attn_implementation": "model.attention",
    "torch_compile": "model.compile",
    "data": "data.path",
    "dataset": "data.path",
    "dataset_name": "data.path",
    "max_seq_length": "data.max_length",
    "truncation_mode": "data.truncation",
    "loss": "objective.name",
    "loss_type": "objective.name",
    "logging_steps": "log.every",
    "eval_steps": "log.eval_every",
    "report_to": "log.trackers",
    "save_steps": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "output": "output_dir",
}
"""Settings by the names that they have in TRL, transformers, axolotl and LLaMA-Factory."""


def nearest(name: str, names: Collection[str]) -> str | None:
    """The one of `names` that `name` stands for; None if none is like it.

    Another library's name comes first, then a setting by its last part, such as `lr`, then the most similar.
    """
    plain = name.replace("-", "_").lower()
    if ELSEWHERE.get(plain) in names:
        return ELSEWHERE[plain]
    last = _last(plain)
    if same := [each for each in names if _last(each) == last]:
        return _first_like(plain, same) or min(same, key=lambda each: each.count("."))
    if found := _first_like(plain, names):
        return found
    like = get_close_matches(last, {_last(each) for each in names}, n=1, cutoff=LEAST_LIKENESS)
    return nearest(like[0], names) if like else None


def begun(name: str, names: Collection[str]) -> str | None:
    """The one of `names` that begins with the words of `name`; None if none does, or several do."""
    found = [each for each in names if each.startswith(f"{name.replace('-', '_').lower()}_")]
    return found[0] if len(found) == 1 else None


def _first_like(name: str, names: Collection[str]) -> str | None:
    return next(iter(get_close_matches(name, names, n=1, cutoff=LEAST_LIKENESS)), None)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
