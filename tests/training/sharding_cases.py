"""What every process of a sharded job does in the tests, and one process alone to compare with."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.debug import CommDebugMode
from transformers import AutoConfig, AutoModelForCausalLM

from iwpo_fast.config import DataConfig, LoraConfig, ModelConfig, ObjectiveConfig, OptimConfig, TinyConfig, TrainConfig
from iwpo_fast.data.batch import flat_batch
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models import Policy, layers, load_policy
from iwpo_fast.models.reference import with_reference
from iwpo_fast.models.sharding import shard, shard_mesh
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.training import loop, train
from iwpo_fast.training.checkpoint import TrainState
from iwpo_fast.training.job import Job, batches_ahead
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.training.metrics import PreferenceMetrics
from iwpo_fast.world import World, full_tensor

layers.COMPILER = "eager"  # Inductor's code would take a minute to compile.

TINY = TinyConfig(vocab_size=261, hidden_size=32, layers=2, heads=2)
TOKENIZER_TEXTS = ["red green blue", "warm cold small large"]

OBJECTIVES: dict[str, str | dict[str, float]] = {
    "sigmoid": "sigmoid",
    "five with statistics of the step": {"kto": 1.0, "beta_dpo": 0.5, "bco": 0.3, "sft": 0.2, "cpo": 0.1},
    "aot": "aot",
    "aot_unpaired": "aot_unpaired",
    "e_dpo_batch": "e_dpo_batch",
    "drdo_reference": "drdo_reference",  # reads scores, and means over tokens
}

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.25,
    "vocab_size": 320,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def save_family(folder: Path, family: str, **settings: Any) -> ModelConfig:
    """Write a small random model of a family."""
    tokenizer = train_tokenizer(TOKENIZER_TEXTS, TINY.vocab_size)
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **(SHAPE | settings))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelConfig(path=str(folder))


def model_configs(folder: Path) -> dict[str, ModelConfig]:
    """Models that differ in what sharding has to do with them."""
    return {
        "tied": ModelConfig(tiny=TINY),
        "untied, compiled": dataclasses.replace(
            save_family(folder / "llama", "llama", tie_word_embeddings=False),
            gradient_checkpointing="full",
            compile=True,
        ),
        "padded": dataclasses.replace(
            save_family(folder / "gemma2", "gemma2", final_logit_softcapping=3.0, sliding_window=4),
            batch_layout="padded",
        ),
        "adapter": ModelConfig(tiny=TINY, lora=LoraConfig(rank=4), gradient_checkpointing="selective"),
        "adapted head": dataclasses.replace(
            save_family(folder / "qwen2", "qwen2", tie_word_embeddings=True),
            lora=LoraConfig(rank=3, target_modules=["q_proj", "lm_head"]),
        ),
    }


def toy_pairs(count: int = 13) -> Pairs:
    """Random tokens, weights with zeros, soft labels, and scores of two reward models."""
    rng = np.random.default_rng(3)

    def ragged(low: int, high: int) -> Ragged:
        return Ragged.from_rows([rng.integers(4, 250, rng.integers(low, high)) for _ in range(count)])

    scores = rng.normal(size=(count, 2))
    return Pairs(
        prompt=ragged(1, 6),
        chosen=ragged(1, 12),
        rejected=ragged(1, 12),
        weight=0.25 * (np.arange(count) % 7),
        columns={"score_chosen": scores + 0.5, "score_rejected": scores},
    )


Results = dict[str, Any]


def steps_of(
    models: dict[str, ModelConfig],
    folder: Path,
    shard_over: Any,
    context_parallel: int = 1,
    objectives: Collection[str] = tuple(OBJECTIVES),
) -> dict[str, Results]:
    """Gradients, metrics and evaluation of single steps, of each model and objective; saves each model in `folder`."""
    world = World.start("cpu")
    mesh, world = shard_mesh(world, shard_over), world.in_contexts_of(context_parallel)
    return {
        name: _steps_of_model(model, objectives if name == "tied" else ("sigmoid",), world, mesh, folder / name)
        for name, model in models.items()
    }


def _steps_of_model(
    model: ModelConfig, objectives: Collection[str], world: World, mesh: DeviceMesh | None, saved: Path
) -> Results:
    tokenizer = train_tokenizer(TOKENIZER_TEXTS, TINY.vocab_size)
    policy = load_policy(model, tokenizer, world, seed=5, max_length=20, mesh=mesh)
    assert policy.is_sharded == (mesh is not None)
    pairs = with_reference(policy, toy_pairs(), world, saved / "cache", tokens_per_batch=60)
    _move(policy)
    found: Results = {"fingerprint": policy.fingerprint, "layout": policy.layout, "reference": pairs.ref_logps}
    for objective in objectives:
        # One pair to a micro-batch makes some of the last step's empty; the others accumulate.
        for rows, cap in ((np.arange(9), 2), (np.arange(10, 13), 1)):
            config = TrainConfig(
                data=DataConfig(path=""),
                objective=ObjectiveConfig(name=OBJECTIVES[objective]),
                optim=OptimConfig(tokens_per_batch=90, max_pairs_per_batch=cap, max_grad_norm=None),
            )
            job = Job(config, world, policy, PreferenceLoss(config.objective), pairs)
            found[f"{objective}, {len(rows)} pairs"] = _step(job, rows)
    state = policy.gathered(keep=world.is_main)
    if world.is_main:
        policy.save(saved, tokenizer, state)
    return found


def _move(policy: Policy) -> None:
    """Away from the reference, where every margin is 0; an adapter begins as nothing, which would hide half of it."""
    for name, parameter in policy.trainable_parameters().items():
        with torch.no_grad():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.ones_like(parameter).cumsum(0) / parameter.shape[0])
            else:
                parameter.mul_(1.2)


class _KeepsGradients(torch.optim.Optimizer):
    """Changes no parameter."""

    def __init__(self, policy: Policy) -> None:
        self.parameters = policy.trainable_parameters()
        super().__init__(self.parameters.values(), {})

    def step(self, closure: Any = None) -> None:
        self.gradients = {name: full_tensor(p.grad).numpy().copy() for name, p in self.parameters.items()}


def _step(job: Job, rows: np.ndarray) -> Results:
    state, metrics, optimizer = TrainState(), PreferenceMetrics(job.world.device), _KeepsGradients(job.policy)
    loop.train_step(job, rows, batches_ahead(job, [rows]), optimizer, state, metrics)
    measured = metrics.compute(job.world) | loop.evaluate(job, state)[0]
    return {"gradients": optimizer.gradients, "metrics": measured, "state": state.objective}


def train_until(configs: list[TrainConfig], last: int | None) -> None:
    """Train, and fail in every run where step `last` has been made, if it is given."""
    real = loop.train_step

    def failing(*arguments: Any) -> Any:
        state = arguments[-2]
        if state.step == last:
            raise KeyboardInterrupt
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", failing)
        for config in configs:
            if last is None:
                train(config)
            else:
                with pytest.raises(KeyboardInterrupt):
                    train(config)


def half_precision(shard_over: Any) -> dict[str, Results]:
    """Log-probs, gradients and types in bf16: of a float32 model, and of an adapter on a bf16 base as on a GPU.

    Also how often weights are gathered for one pass forward and backward.
    """
    world, found = World.start("cpu"), {}
    mesh = shard_mesh(world, shard_over)
    tokenizer = train_tokenizer(TOKENIZER_TEXTS, TINY.vocab_size)
    for name, lora in (("all weights", None), ("adapter", LoraConfig(rank=4))):
        model = ModelConfig(tiny=TINY, lora=lora, precision="bf16")
        policy = load_policy(model, tokenizer, world, seed=5, max_length=20)
        for parameter in policy.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
        if mesh is not None:
            shard(policy, mesh)
        batch = flat_batch(toy_pairs(), np.arange(4))
        _move(policy)
        with CommDebugMode() as communication:
            logps = policy(batch)
            assert isinstance(logps, torch.Tensor)
            logps.sum().backward()
        gradients = {name: full_tensor(p.grad) for name, p in policy.trainable_parameters().items()}
        with torch.no_grad():
            hidden = policy.hidden_states(batch)
            policy.release()
        found[name] = {
            "logps": logps.detach().numpy().copy(),
            "gradients": {name: gradient.numpy().copy() / world.size for name, gradient in gradients.items()},
            "gradient types": {str(gradient.dtype) for gradient in gradients.values()},
            "hidden type": str(hidden.dtype),
            "gathers": communication.get_comm_counts()[torch.ops.c10d._allgather_base_],
        }
    return found
