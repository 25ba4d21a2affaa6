"""TRL's DPOTrainer, its `train()` from the first to the last step, on token ids and reference log-probs that are given.

No gradient checkpointing, fused AdamW (its default), PyTorch's attention, no logging, saving or evaluation.
`padding_free` does nothing in TRL 1.16.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerCallback, TrainerControl
from trl import DPOConfig, DPOTrainer
from trl.trainer import dpo_trainer

from benchmarks.training.case import BETA, LEARNING_RATE, MAX_GRAD_NORM, SEED, Job, build_model, lora_config
from benchmarks.training.gate import CHECKED, Gate


class PreparedTrainer(DPOTrainer):
    """Takes the data as they are: tokenised, with reference log-probs."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class GateCallback(TrainerCallback):
    def __init__(self, gate: Gate, trainer: DPOTrainer, accumulation: int) -> None:
        self._gate, self._trainer, self._accumulation = gate, trainer, accumulation

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        if not self._gate.step_done(self._values):
            control.should_training_stop = True

    def _values(self) -> dict[str, float]:
        """Means over the micro-batches of the last step, which are of one size."""
        logged = self._trainer._metrics["train"]
        return {name: sum(logged[name][-self._accumulation :]) / self._accumulation for name in CHECKED}


def train(job: Job, gate: Gate) -> None:
    """Padded batches of `micro_pairs` pairs, in the order given."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(job, folder)
        trainer.remove_callback(PrinterCallback)
        accumulation = job.case.pairs_per_step // job.micro_pairs
        trainer.add_callback(GateCallback(gate, trainer, accumulation))
        assert trainer.model is not None
        if gate.ready(trainer.model):
            trainer.train()


def _trainer(job: Job, folder: str) -> DPOTrainer:
    case = job.case
    # Its only use is the name of a cache that `PreparedTrainer` has no need of, and it reads all weights.
    dpo_trainer.hash_module = lambda module: ""
    arguments = DPOConfig(
        output_dir=folder,
        beta=BETA,
        max_length=None,
        precompute_ref_log_probs=True,
        per_device_train_batch_size=job.micro_pairs,
        gradient_accumulation_steps=case.pairs_per_step // job.micro_pairs,
        max_steps=job.steps,
        train_sampling_strategy="sequential",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_GRAD_NORM,
        gradient_checkpointing=False,
        bf16=case.compute_dtype == torch.bfloat16,
        use_cpu=case.device == "cpu",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
    )
    model = build_model(case)
    torch.manual_seed(SEED)
    return PreparedTrainer(
        model,
        args=arguments,
        train_dataset=_dataset(job),
        processing_class=_tokenizer(),
        peft_config=lora_config() if case.lora else None,
    )


def _dataset(job: Job) -> Dataset:
    pairs, rows = job.pairs, range(len(job.pairs))
    columns: dict[str, Any] = {
        f"{name}_ids": [getattr(pairs, name)[row].tolist() for row in rows] for name in ("prompt", "chosen", "rejected")
    }
    sides = zip(("chosen", "rejected"), job.reference.T, strict=True)
    return Dataset.from_dict(columns | {f"ref_{name}_logps": side.tolist() for name, side in sides})


def _tokenizer() -> PreTrainedTokenizerFast:
    """Only its padding token is asked for."""
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<pad>")
