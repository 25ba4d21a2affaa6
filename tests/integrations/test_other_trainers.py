"""With the library's operator in TRL's place its other trainers train as they do without."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("trl")
pytest.importorskip("datasets")

import datasets
import trl
import trl.trainer.utils as trl_utils

from iwpo_fast.config import TinyConfig
from iwpo_fast.integrations.trl import fused_head
from iwpo_fast.models.tiny import tiny_model, train_tokenizer

ROWS = [
    {"prompt": f"say {word}: ", "completion": word, "label": i % 2 == 0}
    for i, word in enumerate(["red", "green", "blue", "warm", "cold and dark", "near", "far", "soft"])
]


def letters(completions: list[str], **_: Any) -> list[float]:
    """A reward for `GRPOTrainer` and `RLOOTrainer`."""
    return [float(len(text) % 5) for text in completions]


TRAINERS: dict[str, tuple[Any, Any, tuple[str, ...], dict[str, Any]]] = {
    "sft": (trl.SFTTrainer, trl.SFTConfig, ("prompt", "completion"), {}),
    "kto": (trl.KTOTrainer, trl.KTOConfig, ("prompt", "completion", "label"), {}),
    "grpo": (trl.GRPOTrainer, trl.GRPOConfig, ("prompt",), {"beta": 0.1, "top_entropy_quantile": 0.5}),
    "rloo": (trl.RLOOTrainer, trl.RLOOConfig, ("prompt",), {}),
}
"""Trainer, its configuration, the columns that it reads, and settings of its own."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_a_training_logs_what_it_logs_with_trls_operator(name, tmp_path, monkeypatch) -> None:
    train = _training(name, tmp_path)
    theirs = train()
    with fused_head():
        operator, calls = trl_utils._ChunkedLogProbFunction, []
        apply = operator.apply
        monkeypatch.setattr(operator, "apply", lambda *given: calls.append(1) or apply(*given))
        ours = train()
    assert calls
    for mine, other in zip(ours, theirs, strict=True):
        numbers = {key: value for key, value in other.items() if not any(word in key for word in ("time", "per_sec"))}
        assert {key: mine[key] for key in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-5)


def _training(name: str, folder: Any) -> Callable[[], list[dict[str, float]]]:
    trainer, config, columns, own = TRAINERS[name]
    rows = [{column: row[column] for column in columns} for row in ROWS]
    tokenizer = train_tokenizer([f"{row['prompt']}{row['completion']}" for row in ROWS] * 3, 300)
    model = tiny_model(TinyConfig(vocab_size=len(tokenizer), hidden_size=32, layers=1, heads=2), tokenizer, 0)
    model.save_pretrained(folder / "model")  # where the trainers find their reference
    model.config._name_or_path = str(folder / "model")
    drawn = {"num_generations": 4, "max_completion_length": 6} if columns == ("prompt",) else {}
    given: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 5e-3,
        "logging_steps": 1,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
    }

    def train() -> list[dict[str, float]]:
        args = config(output_dir=str(folder), **given, **drawn, **own)
        torch.manual_seed(0)
        reward = {"reward_funcs": letters} if drawn else {}
        data = datasets.Dataset.from_list(rows)
        made = trainer(copy.deepcopy(model), args=args, train_dataset=data, processing_class=tokenizer, **reward)
        made.train()
        return [dict(entry) for entry in made.state.log_history]

    return train
