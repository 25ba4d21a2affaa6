"""The plan of a run, printed before its first step: what will be done, and about how much memory it takes."""

from __future__ import annotations

import platform

import numpy as np
import torch
from transformers import PreTrainedConfig

from iwpo_fast.config import SampledKLConfig, TrainConfig
from iwpo_fast.data.order import micro_batches
from iwpo_fast.models import four_bits
from iwpo_fast.models.other_reference import stands_beside
from iwpo_fast.models.policy import Layout
from iwpo_fast.models.pretrained import trust_line
from iwpo_fast.planning.memory import step_memory
from iwpo_fast.training.about import About
from iwpo_fast.training.job import Job
from iwpo_fast.words import several

LAYOUTS: dict[Layout, str] = {
    "shared": "flat batches with each prompt once",
    "flat": "flat batches of separate sequences",
    "padded": "padded batches of separate sequences",
}

EXACT = {"default", "llama3"}
"""Kinds of rotary positions of which `max_position_embeddings` counts all; others are stretched beyond it."""


def plan_lines(job: Job, none_held_out: str = About().held_out) -> list[str]:
    """What the run will do, and the memory it is expected to take on one device.

    Args:
        none_held_out: what is said where no pair is held out.
    """
    config, policy, world = job.config, job.policy, job.world
    tokens = policy.tokens(job.pairs)
    batches = micro_batches(
        job.rows_of_step(0),
        tokens,
        budget=config.optim.tokens_per_batch,
        max_pairs=config.optim.max_pairs_per_batch,
        ranks=world.data_size,
    )[world.data_rank]
    largest = max(batches, key=lambda rows: int(tokens[rows].sum()), default=np.empty(0, dtype=np.int64))
    head_tokens = int(job.pairs.tokens_trained[largest].sum())
    if job.pairs.between is not None:
        head_tokens += int(job.pairs.between.tokens[largest].sum())
    memory = step_memory(config, policy, int(tokens[largest].sum()), head_tokens)
    parts = ", ".join(f"{name} {_size(bytes_)}" for name, bytes_ in memory.items())
    trainable = sum(p.numel() for p in policy.trainable_parameters().values())
    held_out = none_held_out if job.held_out is None else f"{len(job.held_out):,} held out"
    saved = policy.saved_dtype(config.checkpoint.dtype)
    sharding = "" if config.shard_over == 1 else f"sharded over {config.shard_over}, "
    if world.context is not None:
        sharding += f"each batch split over {world.context.size} processes, "
    extra = [] if (trust := trust_line(config.model)) is None else [f"      {trust}"]
    if job.router is not None:
        factor = f"{job.router.coefficient:g}"
        extra.append(f"      the router's auxiliary loss is added with the factor {factor}, and logged as aux_loss")
    if config.model.reference is not None:
        how_long = "its pass alone" if config.sampled_kl is None else "the whole run"
        extra.append(f"      the reference is {config.model.reference}, held beside the policy for {how_long}")
    if config.sampled_kl is not None:
        extra += sampled_kl_lines(config, config.sampled_kl)
    if config.model.adapter is not None:
        becomes = "is trained further" if config.model.lora is None else "is merged into the model before"
        extra.append(f"      the adapter {config.model.adapter} {becomes}; the reference has it, as it is now")
    if slow_bfloat16(policy.compute_dtype, world.device):
        extra.append("      this CPU imitates bfloat16, which it has no instructions for: fp32 is faster")
    extra += beyond_positions(policy.causal_lm.config.get_text_config(), tokens_of_longest(job))
    why = f" ({policy.attention_reason})" if policy.attention_reason else ""
    return [
        f"plan: {len(job.pairs):,} training {job.pairs.noun} ({job.pairs.tokens.sum():,} tokens an epoch), " + held_out,
        f"      {several(job.steps, 'step')} ({job.steps_per_epoch:,} an epoch{_fewer(job)}), "
        f"{several(len(batches), 'micro-batch', 'es')} a step and rank",
        f"      {trainable:,} of {sum(four_bits.entries(p) for p in policy.parameters()):,} parameters train; "
        f"the {'adapter' if policy.saves_adapter else 'model'} is saved in {_name(saved)}",
        f"      {world.size} x {world.device.type}, {_threads()}, "
        f"{_name(policy.compute_dtype)} compute, "
        f"{sharding}{LAYOUTS[policy.layout]} ({policy.layout_reason}), attention: {policy.attention}{why}",
        f"      about {_size(sum(memory.values()))} of memory: {parts}",
        *extra,
    ]


def sampled_kl_lines(config: TrainConfig, asked: SampledKLConfig) -> list[str]:
    """What the policy draws for its KL, and what that KL is to."""
    prompts = "the pairs" if asked.prompts is None else str(asked.prompts)
    beside = "held beside the policy" if stands_beside(config.model) else "the policy without its adapter"
    return [
        f"      every {asked.every} steps {asked.samples} completions are drawn for prompts of {prompts}; the KL of "
        f"{asked.per_step} of them to",
        f"      the reference, {beside}, is added to the loss of each step with the factor {asked.coefficient:g}",
    ]


def tokens_of_longest(job: Job) -> int:
    """Of the longest sequence that is trained on."""
    pairs = job.pairs
    return int((pairs.prompt.lengths + np.maximum(pairs.chosen.lengths, pairs.rejected.lengths)).max(initial=0))


def beyond_positions(config: PreTrainedConfig, longest: int) -> list[str]:
    """The line about sequences that are longer than a model with rotary positions was made for; mostly none."""
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    types = {layer.get("rope_type") for layer in rope.values() if isinstance(layer, dict)} or {rope.get("rope_type")}
    if limit is None or longest <= limit or not types <= EXACT:
        return []
    return [
        f"      the longest sequence has {longest:,} tokens, more than the {limit:,} positions that the model was made "
        f"for: lower data.max_length to {limit}"
    ]


def slow_bfloat16(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether products are computed in a type for which an x86 CPU has no instructions."""
    if dtype != torch.bfloat16 or device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    return not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _fewer(job: Job) -> str:
    """That the epochs end before `optim.max_steps` does, where they do."""
    optim = job.config.optim
    if optim.max_steps is None or job.steps >= optim.max_steps:
        return ""
    return f"; optim.max_steps {optim.max_steps:,} is more than the {optim.epochs:g} of optim.epochs have"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _threads() -> str:
    """The number of threads, because the bits of a sum on a CPU depend on it."""
    number = torch.get_num_threads()
    return "1 CPU thread" if number == 1 else f"{number} CPU threads"


def _size(bytes_: int) -> str:
    return f"{bytes_ / 2**30:.1f} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:.0f} MiB"
