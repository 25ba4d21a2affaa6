"""A training by `WeightedDPOTrainer` that each rank of a job runs; the first writes the final weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import datasets
import trl
from safetensors.torch import save_file

from iwpo_fast.config import ObjectiveConfig, TinyConfig
from iwpo_fast.integrations.trl import WeightedDPOTrainer
from iwpo_fast.models.tiny import tiny_model, train_tokenizer

WEIGHTS = (0.5, 3.0, 1.0, 0.25)
ROWS = [
    {"prompt": "say it: ", "chosen": "red " * (i + 1), "rejected": "blue and green", "weight": weight}
    for i, weight in enumerate(WEIGHTS)
]


def train(folder: Path, pairs_per_rank: int, normalize: Any) -> None:
    tokenizer = train_tokenizer([" ".join(str(value) for value in row.values()) for row in ROWS] * 3, 300)
    shape = TinyConfig(vocab_size=len(tokenizer), hidden_size=32, layers=1, heads=2)
    policy, reference = tiny_model(shape, tokenizer, 0), tiny_model(shape, tokenizer, 1)
    config = trl.DPOConfig(
        output_dir=str(folder / "run"),
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        per_device_train_batch_size=pairs_per_rank,
        max_steps=2,
        learning_rate=0.1,
        max_grad_norm=0.0,
        optim="sgd",
        disable_tqdm=True,
    )
    trainer = WeightedDPOTrainer(
        policy,
        reference,
        args=config,
        train_dataset=datasets.Dataset.from_list(ROWS),
        processing_class=tokenizer,
        objective=ObjectiveConfig(normalize=normalize),
    )
    trainer.train()
    if trainer.accelerator.is_main_process:
        weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
        save_file({name: value.clone() for name, value in weights.items()}, folder / "final.safetensors")


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
