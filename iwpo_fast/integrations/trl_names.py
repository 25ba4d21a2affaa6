"""What TRL's settings are called here, and what it has where a recipe does not say."""

from __future__ import annotations

from typing import Any

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

READ: set[str] = {
    *DEFAULTS,
    *SAME,
    *NEEDLESS,
    *BESIDE,
    *("max_steps", "optim", "eval_steps", "report_to", "fp16", "activation_offloading", "load_in_4bit"),
    *("dataset_test_split", "rpo_alpha"),
    *("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_token"),
}


def is_lora(name: str) -> bool:
    """Whether a setting of TRL is one of its adapter."""
    return SAME[name].startswith("model.lora.")
