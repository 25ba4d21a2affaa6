"""The plan of a run, printed before its first step: what will be done, and about how much memory it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from iwpo_fast.config import TrainConfig
from iwpo_fast.data.order import micro_batches
from iwpo_fast.models import four_bits
from iwpo_fast.models.policy import Layout, Policy
from iwpo_fast.models.sharding import gathered_bytes
from iwpo_fast.optimisation import moments_bytes
from iwpo_fast.training.job import Job

LAYOUTS: dict[Layout, str] = {
    "shared": "flat batches with each prompt once",
    "flat": "flat batches of separate sequences",
    "padded": "padded batches of separate sequences",
}


def plan_lines(job: Job) -> list[str]:
    """What the run will do, and the memory it is expected to take on one device."""
    config, policy, world = job.config, job.policy, job.world
    tokens = policy.tokens(job.pairs)
    batches = micro_batches(
        job.rows_of_step(0),
        tokens,
        budget=config.optim.tokens_per_batch,
        max_pairs=config.optim.max_pairs_per_batch,
        ranks=world.size,
    )[world.rank]
    memory = expected_memory(config, policy, max((int(tokens[rows].sum()) for rows in batches), default=0))
    parts = ", ".join(f"{name} {_size(bytes_)}" for name, bytes_ in memory.items())
    trainable = sum(p.numel() for p in policy.trainable_parameters().values())
    held_out = 0 if job.held_out is None else len(job.held_out)
    sharding = "" if config.shard_over == 1 else f"sharded over {config.shard_over}, "
    why = f" ({policy.attention_reason})" if policy.attention_reason else ""
    return [
        f"plan: {len(job.pairs):,} training pairs ({job.pairs.tokens.sum():,} tokens an epoch), {held_out:,} held out",
        f"      {job.steps:,} steps ({job.steps_per_epoch:,} an epoch), {len(batches)} micro-batches a step and rank",
        f"      {trainable:,} of {sum(four_bits.entries(p) for p in policy.parameters()):,} parameters train",
        f"      {world.size} x {world.device.type}, {_threads()}, "
        f"{str(policy.compute_dtype).removeprefix('torch.')} compute, "
        f"{sharding}{LAYOUTS[policy.layout]} ({policy.layout_reason}), attention: {policy.attention}{why}",
        f"      about {_size(sum(memory.values()))} of memory: {parts}",
    ]


def expected_memory(config: TrainConfig, policy: Policy, tokens: int) -> dict[str, int]:
    """Bytes by part for a micro-batch of `tokens`: exact for weights and optimiser, an estimate for activations."""
    trained = _held(policy.trainable_parameters().values())
    text = policy.causal_lm.config.get_text_config()
    hidden, layers = text.hidden_size, text.num_hidden_layers
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    element = policy.compute_dtype.itemsize
    # Saved for the backward pass: inputs of both norms, q, k, v, attention output, and three tensors of the MLP.
    layer = (7 * hidden + 3 * inner) * element
    entry = hidden * cast(Tensor, cast(nn.Module, policy.causal_lm.get_input_embeddings()).weight).element_size()
    products = (6 * hidden + 2 * inner) * element
    kept = {
        "none": layers * layer,
        "selective": layers * (entry + products) + layer,
        "full": (1 if config.model.offload_activations else layers) * entry + layer,
    }
    activations = tokens * kept[config.model.gradient_checkpointing]
    memory = {
        "weights": _held(policy.parameters()) + _scales(policy.parameters()),
        "gradients": trained,
        "optimiser": sum(moments_bytes(p, config.optim) for p in _local(policy.trainable_parameters().values())),
        "activations": activations,
    }
    cast_for_backward = _cast_for_backward(config, policy)
    if cast_for_backward and not policy.is_sharded:
        memory["weights cast"] = cast_for_backward
    return memory | ({"gathered weights": gathered_bytes(policy)} if policy.is_sharded else {})


def _cast_for_backward(config: TrainConfig, policy: Policy) -> int:
    """Bytes of the matrices that autocast copies to the compute type and keeps until the backward pass."""
    kept = [p for p in policy.parameters() if p.ndim == 2 and p.dtype.itemsize > policy.compute_dtype.itemsize]
    if config.model.gradient_checkpointing == "full":  # recomputed, layer by layer
        text = policy.causal_lm.config.get_text_config()
        kept = kept[: math.ceil(len(kept) / text.num_hidden_layers)]
    return sum(p.numel() for p in kept) * policy.compute_dtype.itemsize


def _threads() -> str:
    """The number of threads, because the bits of a sum on a CPU depend on it."""
    number = torch.get_num_threads()
    return "1 CPU thread" if number == 1 else f"{number} CPU threads"


def _held(parameters: Iterable[Parameter]) -> int:
    """Bytes of these parameters on this process."""
    return sum(p.numel() * p.element_size() for p in _local(parameters))


def _scales(parameters: Iterable[Parameter]) -> int:
    """Bytes of the scales of quantised parameters."""
    return sum(tensor.nbytes for p in parameters for tensor in four_bits.scales(p).values())


def _local(parameters: Iterable[Parameter]) -> list[Tensor]:
    """The part of each parameter that this process holds."""
    return [p.to_local() if isinstance(p, DTensor) else p for p in parameters]


def _size(bytes_: int) -> str:
    return f"{bytes_ / 2**30:.1f} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:.0f} MiB"
