"""Weights, gradients and optimiser state split over processes (FSDP2), for models that outgrow one device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.order import MicroBatch
from iwpo_fast.models import four_bits
from iwpo_fast.models.layers import decoder_layers
from iwpo_fast.models.policy import Policy
from iwpo_fast.world import World


def shard_mesh(world: World, shard_over: int | Literal["node", "all"]) -> DeviceMesh | None:
    """The processes among which `TrainConfig.shard_over` splits a model; None where each holds the whole model.

    Returns:
        A mesh [processes], or [copies, processes] where there are several copies of the model (HSDP), each split over
        neighbouring processes.

    Raises:
        ValueError: the job's processes cannot be split that way.
    """
    sizes = {"node": world.local_size, "all": world.size}
    processes = sizes[shard_over] if isinstance(shard_over, str) else shard_over
    if processes < 1 or world.size % processes:
        raise ValueError(
            f"shard_over is {shard_over} but the job's {world.size} processes cannot be split into groups of "
            f"{processes}: set a number that divides {world.size}, or all."
        )
    if processes == 1:
        return None
    copies = world.size // processes
    shape, names = ((processes,), ("shard",)) if copies == 1 else ((copies, processes), ("copy", "shard"))
    return init_device_mesh(world.device.type, shape, mesh_dim_names=names)


def shard(policy: Policy, mesh: DeviceMesh) -> None:
    """Keep only this process's part of the policy, on its device.

    Each layer of the decoder is gathered when it runs. What is left, embedding, last norm and head, is gathered once
    for a forward and its backward pass, also where embedding and head are tied. Matrix products are in the policy's
    compute type; gradients are summed in float32, and not divided, because losses are normalised already. Of quantised
    weights the codes are split and gathered as they are, and every process has all scales.
    """
    precision = MixedPrecisionPolicy(
        param_dtype=policy.compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    embedding = cast(nn.Module, policy.causal_lm.get_input_embeddings())
    stored = cast(Tensor, embedding.weight).dtype  # in which autocast leaves embeddings where nothing is sharded
    embedding.register_forward_hook(lambda _, inputs, output: output.to(stored))
    with four_bits.scales_kept(policy):
        for module in (*decoder_layers(policy.head.decoder), policy):
            sharded = fully_shard(module, mesh=mesh, mp_policy=precision)
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(policy, "hidden_states")
    register_fsdp_forward_method(policy, "generate")
    policy.register_forward_hook(_release_after_inference)


def in_lockstep(
    policy: Policy, batches: Iterable[tuple[MicroBatch, FlatBatch]]
) -> Iterator[tuple[np.ndarray, FlatBatch]]:
    """Rows and batch of each of this rank's micro-batches that has rows.

    Other ranks wait for this rank's part of a sharded policy, so an empty micro-batch makes a pass too, over any batch,
    and adds nothing. Every rank must have as many micro-batches. Where there are copies of the policy
    (HSDP), they sum their gradients in the backward pass of the last.
    """
    for micro_batch, batch in batches:
        if isinstance(policy, FSDPModule):
            policy.set_requires_all_reduce(micro_batch.left == 0)
        if len(micro_batch.rows):
            yield micro_batch.rows, batch
        elif policy.is_sharded:
            logps = policy(batch)
            if torch.is_grad_enabled():
                (0 * logps.sum()).backward()


def gathered_bytes(policy: Policy) -> int:
    """Bytes of a sharded policy gathered at a time: two layers, because the next is fetched early, and the rest."""

    def gathered(module: nn.Module) -> int:
        of_type = policy.compute_dtype.itemsize
        return sum(p.numel() * (of_type if p.is_floating_point() else p.element_size()) for p in module.parameters())

    layers = [gathered(layer) for layer in decoder_layers(policy.head.decoder)]
    return gathered(policy) - sum(layers) + 2 * max(layers, default=0)


def _release_after_inference(policy: nn.Module, *_: object) -> None:
    """No backward pass will free what the forward pass has gathered, and the next pass may find other weights."""
    if not torch.is_grad_enabled():
        cast(FSDPModule, policy).reshard()
