"""A training by `WeightedDPOTrainer` that each rank of a job runs; it writes losses and the final model."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import Any

import datasets
import peft
import trl
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from iwpo_fast.config import ObjectiveConfig, TinyConfig
from iwpo_fast.integrations.trl import WeightedDPOTrainer
from iwpo_fast.models.tiny import tiny_model, train_tokenizer

WEIGHTS = (0.5, 3.0, 1.0, 0.25)
ROWS = [
    {"prompt": "say it: ", "chosen": "red " * (i + 1), "rejected": "blue and green", "weight": weight}
    for i, weight in enumerate(WEIGHTS)
]


FSDP = {"version": 2, "transformer_layer_cls_to_wrap": "LlamaDecoderLayer"}
ZERO = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",  # otherwise it clips to a norm of 1
    "zero_optimization": {"stage": 2},
    "zero_allow_untested_optimizer": True,
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"use_cpu": True},
    "fsdp2": {"use_cpu": True, "fsdp": True, "fsdp_config": FSDP},
    "zero2": {"deepspeed": ZERO, "accelerator_config": {"use_configured_state": True}},
}


WRAPPERS = {
    ("ddp", 1): "ForCausalLM",
    ("ddp", 2): "DistributedDataParallel",
    ("fsdp2", 2): "FSDP",
    ("zero2", 2): "DeepSpeedEngine",
}


def train(folder: Path, pairs: int, micro_batches: int, strategy: str, kind: str) -> None:
    """Two steps, each of so many micro-batches of so many pairs on every rank."""
    tokenizer = train_tokenizer([" ".join(str(value) for value in row.values()) for row in ROWS] * 3, 300)
    shape = TinyConfig(vocab_size=len(tokenizer), hidden_size=32, layers=1, heads=2)
    policy, reference = tiny_model(shape, tokenizer, 0), tiny_model(shape, tokenizer, 1)
    if kind == "untied":
        untie(policy)
    adapter = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM") if kind == "adapter" else None
    if strategy == "zero2":
        configure_deepspeed()
    config = trl.DPOConfig(
        output_dir=str(folder / "run"),
        bf16=False,
        report_to=[],
        save_strategy="no",
        per_device_train_batch_size=pairs,
        gradient_accumulation_steps=micro_batches,
        max_steps=2,
        learning_rate=0.1,
        max_grad_norm=0.0,
        optim="sgd",
        logging_steps=1,
        disable_tqdm=True,
        **STRATEGIES[strategy],
    )
    if strategy == "fsdp2":
        as_if_on_gpus()
    trainer = WeightedDPOTrainer(
        policy,
        None if adapter else reference,
        args=config,
        peft_config=adapter,
        train_dataset=datasets.Dataset.from_list(ROWS),
        processing_class=tokenizer,
        objective=ObjectiveConfig(normalize="weights"),
    )
    trainer.train()
    assert any(isinstance(p, DTensor) for p in trainer.model.parameters()) == (strategy == "fsdp2")
    assert WRAPPERS[strategy, trainer.accelerator.num_processes] in type(trainer.model_wrapped).__name__
    trainer.save_model(str(folder / "model"))
    if trainer.accelerator.is_main_process:
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        (folder / "losses.json").write_text(json.dumps(losses))
    trainer.accelerator.wait_for_everyone()


def untie(model: Any) -> None:
    model.config.tie_word_embeddings = False
    model.lm_head.weight = Parameter(0.9 * model.lm_head.weight.detach())


def configure_deepspeed() -> None:
    """accelerate leaves DeepSpeed out with `use_cpu`, and without it takes processes without GPUs for one process."""
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    assert PartialState(backend="gloo").num_processes == 2


def as_if_on_gpus() -> None:
    """accelerate shards nothing on CPUs: it would drop FSDP's settings without a word and run DDP."""
    assert PartialState().distributed_type == DistributedType.MULTI_CPU
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if __name__ == "__main__":
    faulthandler.dump_traceback_later(480, exit=True)  # says where it stands, before the test stops it
    train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
    sys.stdout.flush()
    # once in many times gloo aborts where its group is open at the interpreter's end, and waits for ever where the
    # group is destroyed: what is tested is written by now, so neither
    os._exit(0)
