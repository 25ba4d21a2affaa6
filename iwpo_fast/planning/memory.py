"""The memory that a policy takes on one device, part by part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from iwpo_fast.config import SampledKLConfig, TrainConfig
from iwpo_fast.models import four_bits
from iwpo_fast.models.distributions import LOGITS_AT_ONCE
from iwpo_fast.models.layers import decoder_layers
from iwpo_fast.models.other_reference import stands_beside
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.sharding import gathered_bytes
from iwpo_fast.optimisation import moments_bytes
from iwpo_kernels.linear_token_logps.saving import SAVED_SHARE_OF_MEMORY, memory_of
from iwpo_kernels.linear_token_logps.tiling import CPU_TILE_BYTES

WORKSPACE = 256 << 20
"""Bytes of the LM head's slices of logits, `workspace_mb` of `linear_token_logps`."""

SHARED = ("weights", "gradients", "optimiser", "moving reference")
"""Parts that GPUs that hold a policy together share out."""

SCALES_OF_FOUR_BITS = 1 / 64 + 4 / (64 * 256)
"""Bytes of scales for each entry of a 4-bit weight."""

FREE = 0.2
"""Share of a GPU that is left to fragmentation and to the buffers of libraries, as in docs/distributed.md."""


def expected_memory(config: TrainConfig, policy: Policy, tokens: int) -> dict[str, int]:
    """Bytes by part for a micro-batch of `tokens`: exact for weights and optimiser, an estimate for activations.

    Of the micro-batch, processes of one context have a part of the tokens each.
    """
    trained = _held(policy.trainable_parameters().values())
    text = policy.causal_lm.config.get_text_config()
    hidden, layers = text.hidden_size, text.num_hidden_layers
    layer = _layer_bytes(policy)
    entry = hidden * _embedding(policy).element_size()
    products = (6 * hidden + 2 * _inner(policy)) * policy.compute_dtype.itemsize
    kept = {
        "none": layers * layer,
        "selective": layers * (entry + products) + layer,
        "full": (1 if config.model.offload_activations else layers) * entry + layer,
    }
    memory = {
        "weights": _held(policy.parameters()) + _scales(policy.parameters()),
        "gradients": trained,
        "optimiser": _moments(config, policy, is_sharded=policy.is_sharded),
        "activations": _part(config, tokens) * kept[config.model.gradient_checkpointing],
    }
    all_layers = config.model.gradient_checkpointing == "none"
    memory |= _gathered_keys(config, policy, tokens, layers if all_layers else 1)
    if config.reference_sync is not None:
        memory["moving reference"] = trained
    if config.sampled_kl is not None:
        memory |= _drawn_bytes(config, config.sampled_kl, policy, memory["weights"])
    return memory | _copies(policy, is_sharded=policy.is_sharded)


def _drawn_bytes(config: TrainConfig, asked: SampledKLConfig, policy: Policy, weights: int) -> dict[str, int]:
    """What a KL on drawn completions holds: its reference, where that is a model, and some logits of both.

    About six tensors of so many logits are there at once in the backward pass.
    """
    reference = {"reference": weights} if stands_beside(config.model) else {}
    most = asked.per_step * asked.max_new_tokens * policy.head.linear.weight.shape[0]
    return reference | {"distributions": 6 * 4 * min(most, LOGITS_AT_ONCE)}


def step_memory(config: TrainConfig, policy: Policy, tokens: int, head_tokens: int) -> dict[str, int]:
    """`expected_memory` of a policy on its device, with the LM head.

    Args:
        head_tokens: those of `tokens` whose log-probs the LM head gives.
    """
    on_host = policy.device.type == "cpu"
    workspace = CPU_TILE_BYTES if on_host else WORKSPACE
    head = _head_bytes(policy, head_tokens, room=memory_of(policy.device), workspace=workspace)
    memory = expected_memory(config, policy, tokens) | {"LM head": head}
    left = _left_by_adapters(config, policy, tokens) if on_host else 0
    return memory | ({"not used again": left} if left else {})


def training_memory(
    config: TrainConfig, policy: Policy, tokens: int, head_tokens: int, *, room: float, shards: int
) -> dict[str, int]:
    """Bytes by part on one of the GPUs that hold the policy together, at the peak of a step.

    Args:
        policy: without its values, on the device `meta`; whole.
        tokens: of the largest micro-batch.
        head_tokens: those of them whose log-probs the LM head gives.
        room: bytes of a GPU, of which the head's exponentials may take 1/16 (`linear_token_logps`).
        shards: how many GPUs hold it.
    """
    memory = expected_memory(config, policy, tokens)
    head = policy.head.linear.weight
    memory["LM head"] = _head_bytes(policy, head_tokens, room=room, workspace=WORKSPACE)
    if shards > 1 and head.requires_grad:
        memory["gathered gradients"] = (policy.compute_dtype.itemsize + 4) * (head.numel() + _embedding(policy).numel())
    return _shared_out(memory, config, policy, shards)


def pass_memory(config: TrainConfig, policy: Policy, tokens: int, *, shards: int) -> dict[str, int]:
    """The same without gradients: what a pass over `tokens` takes on one GPU."""
    weights = _held(policy.parameters())
    entry = policy.causal_lm.config.get_text_config().hidden_size * 4
    activations = _part(config, tokens) * (entry + _layer_bytes(policy))
    memory = {"weights": weights, "activations": activations, "LM head": WORKSPACE}
    memory |= _gathered_keys(config, policy, tokens, 1)
    return _shared_out(memory | _copies(policy, is_sharded=False), config, policy, shards)


def sampling_memory(config: TrainConfig, policy: Policy, cached: int, drawn: int, *, shards: int) -> dict[str, int]:
    """The same while completions are drawn.

    Args:
        cached: tokens whose keys and values are kept, padding among them.
        drawn: completions that are drawn together, each with float32 logits, their softmax and two copies.
    """
    memory = pass_memory(replace(config, context_parallel=1), policy, cached, shards=shards)
    memory["keys and values"] = cached * cache_bytes(policy)
    memory["logits"] = 4 * 4 * drawn * policy.head.linear.weight.shape[0]
    return memory


def cache_bytes(policy: Policy) -> int:
    """Bytes of the keys and values of one token, over all layers."""
    text = policy.causal_lm.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * size * policy.compute_dtype.itemsize


def fits(memory: Mapping[str, int], room: float) -> bool:
    return sum(memory.values()) <= (1 - FREE) * room


def _shared_out(memory: dict[str, int], config: TrainConfig, policy: Policy, shards: int) -> dict[str, int]:
    """Of a whole policy's memory, what each of `shards` GPUs holds; with 4 bits where they are asked for."""
    whole = 0
    if config.model.quantize == "nf4":
        memory["weights"] -= _saved_by_four_bits(policy)
        whole = int(_four_bit_entries(policy, policy) * SCALES_OF_FOUR_BITS)  # every process has all scales
    if shards == 1:
        return memory
    if "optimiser" in memory:
        memory["optimiser"] = _moments(config, policy, is_sharded=True)
    memory["weights"] -= whole
    shared = {name: math.ceil(memory[name] / shards) for name in SHARED if name in memory}
    shared["weights"] += whole
    memory.pop("weights cast", None)
    gathered = gathered_bytes(policy)
    if config.model.quantize == "nf4":
        layers = [_four_bit_entries(layer, policy) for layer in decoder_layers(policy.head.decoder)]
        gathered -= int(2 * max(layers, default=0) * (policy.compute_dtype.itemsize - 0.5))
    return memory | shared | {"gathered weights": gathered}


def _copies(policy: Policy, *, is_sharded: bool) -> dict[str, int]:
    """What comes and goes beside the weights: gathered ones, or those that autocast copies.

    Autocast keeps its copies of all matrices that can be trained until the forward pass ends, whether layers are
    recomputed or not.
    """
    if is_sharded:
        return {"gathered weights": gathered_bytes(policy)}
    item = policy.compute_dtype.itemsize
    copied = sum(p.numel() for p in policy.trainable_parameters().values() if p.ndim == 2 and p.element_size() > item)
    return {"weights cast": copied * item} if copied else {}


def _saved_by_four_bits(policy: Policy) -> int:
    """Bytes that NF4 with double quantisation saves: 4 bits, 8 for 64 of them, and 32 for 256 of these (QLoRA)."""
    return sum(
        int(w.numel() * (w.element_size() - 0.5 - SCALES_OF_FOUR_BITS)) for w in _four_bit_weights(policy, policy)
    )


def _four_bit_weights(module: nn.Module, policy: Policy) -> list[Tensor]:
    """The weights in the module that `model.quantize` holds in 4 bits."""
    linear = [m for m in module.modules() if isinstance(m, nn.Linear) and m is not policy.head.linear]
    return [m.weight for m in linear if not m.weight.requires_grad]


def _four_bit_entries(module: nn.Module, policy: Policy) -> int:
    return sum(weight.numel() for weight in _four_bit_weights(module, policy))


def _part(config: TrainConfig, tokens: int) -> int:
    """Of the tokens of a micro-batch, those on one GPU."""
    return math.ceil(tokens / config.context_parallel)


def _gathered_keys(config: TrainConfig, policy: Policy, tokens: int, layers: int) -> dict[str, int]:
    """What a context adds: keys and values of all tokens in one layer, and what each layer keeps of them.

    That is for each sequence all before the end of an early part, and all before the end of a late one.
    """
    processes = config.context_parallel
    if processes == 1:
        return {}
    of_layer = cache_bytes(policy) // policy.causal_lm.config.get_text_config().num_hidden_layers
    kept = 1 + 1 / (2 * processes)
    return {"gathered keys and values": math.ceil(tokens * of_layer * (1 + layers * kept))}


def _head_bytes(policy: Policy, tokens: int, *, room: float, workspace: int) -> int:
    """Bytes of the LM head for so many log-probs: a slice of logits, their Jacobian, exponentials, its own gradient."""
    head = policy.head.linear.weight
    exponentials = tokens * head.shape[0] * policy.compute_dtype.itemsize
    saved = exponentials if head.requires_grad and exponentials <= room / SAVED_SHARE_OF_MEMORY else 0
    of_head = head.numel() * 4 if head.requires_grad else 0  # its gradient, before it is added to that of the step
    return workspace + 4 * tokens * head.shape[1] + saved + of_head


def _left_by_adapters(config: TrainConfig, policy: Policy, tokens: int) -> int:
    """Bytes that adapters have freed and that the host's allocator does not give out again.

    The output of an adapted layer is a sum, and what is summed is freed while that stays. PyTorch asks for aligned
    blocks, and glibc finds a freed one too small for the next as large; two of each output were measured
    (docs/plan.md). A layer that is computed again leaves its own alone.
    """
    adapted = sum(cast(int, module.out_features) for module in policy.modules() if isinstance(module, LoraLinear))
    layers = policy.causal_lm.config.get_text_config().num_hidden_layers
    kept = adapted if config.model.gradient_checkpointing == "none" else adapted // layers
    return 2 * tokens * kept * policy.compute_dtype.itemsize


def _layer_bytes(policy: Policy) -> int:
    """Bytes that a layer saves for the backward pass, for each token.

    These are the inputs of both norms, q, k, v, the output of attention, and three tensors of the MLP. In float32 they
    have been counted on a CPU (docs/plan.md): inputs and outputs of both norms, and what they multiply by a weight that
    is trained; q, k and v; the output of attention twice, padded and flat; four tensors of the MLP.
    """
    text, inner = policy.causal_lm.config.get_text_config(), _inner(policy)
    hidden, item = text.hidden_size, policy.compute_dtype.itemsize
    if policy.compute_dtype != torch.float32:
        return (7 * hidden + 3 * inner) * item
    of_norms = 2 * hidden if any(p.ndim == 1 for p in policy.trainable_parameters().values()) else 0
    return (7 * hidden + of_norms + 4 * inner) * item + cache_bytes(policy) // text.num_hidden_layers


def _inner(policy: Policy) -> int:
    text = policy.causal_lm.config.get_text_config()
    return getattr(text, "intermediate_size", None) or 4 * text.hidden_size


def _embedding(policy: Policy) -> Tensor:
    return cast(Tensor, cast(nn.Module, policy.causal_lm.get_input_embeddings()).weight)


def _moments(config: TrainConfig, policy: Policy, *, is_sharded: bool) -> int:
    return sum(moments_bytes(p, config.optim, is_sharded=is_sharded) for p in policy.trainable_parameters().values())


def _held(parameters: Iterable[Parameter]) -> int:
    """Bytes of these parameters on this process."""
    return sum(p.numel() * p.element_size() for p in _local(parameters))


def _scales(parameters: Iterable[Parameter]) -> int:
    """Bytes of the scales of quantised parameters."""
    return sum(tensor.nbytes for p in parameters for tensor in four_bits.scales(p).values())


def _local(parameters: Iterable[Parameter]) -> list[Tensor]:
    """The part of each parameter that this process holds."""
    return [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
