"""The host does not wait for the device in a step: on a device that has no values to wait for, and on a GPU.

Tensors of the device `meta` have shapes and no values, so whatever reads one back raises, in the backward pass too: a
number, a size that depends on values, an index by a mask. Copies that wait are told by their arguments.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from iwpo_fast.config import DataConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from iwpo_fast.data.pairs import Between, Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models import Policy
from iwpo_fast.models.attention import backends
from iwpo_fast.objectives import OBJECTIVES
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.optimisation import make_optimizer
from iwpo_fast.training.checkpoint import TrainState
from iwpo_fast.training.job import Job, batches_ahead
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.training.metrics import PreferenceMetrics
from iwpo_fast.training.step import train_step
from iwpo_fast.world import World

NOWHERE = torch.device("meta")
HAS_GPU = torch.cuda.is_available()
READS_BACK = {"beta_dpo": "its sample of the step's pairs is drawn on the host, from all their margins"}


class Waits(Exception):
    """What the host did would wait for a GPU."""


class NoWaiting(TorchDispatchMode):
    """Raises where a tensor goes from one device to another in a way that waits."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        devices = {leaf.device for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)}
        if len(devices) > 1 and not (func is torch.ops.aten._to_copy.default and kwargs.get("non_blocking")):
            raise Waits(f"{func} of tensors on {devices}")
        return out


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    made = torch.tensor

    def on_the_host(data: Any, **options: Any) -> Tensor:
        if torch.device(options.get("device") or "cpu").type != "cpu":
            raise Waits("torch.tensor on a device copies what Python has and waits for it")
        return made(data, **options)

    with pytest.MonkeyPatch.context() as patch, NoWaiting():
        patch.setattr(torch, "tensor", on_the_host)
        yield


def make_pairs(pairs: int = 6, *, between: bool = False) -> Pairs:
    rng = np.random.default_rng(0)

    def rows() -> Ragged:
        return Ragged.from_rows([rng.integers(0, 64, length) for length in rng.integers(1, 9, pairs)])

    prompt, chosen, rejected = rows(), rows(), rows()
    scores = rng.normal(size=(pairs, 2))
    tokens = [Ragged(rng.normal(size=len(p.values)).astype(np.float32), p.offsets) for p in (chosen, rejected)]
    return Pairs(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        weight=np.array([1.0, 2.0, 0.5, 0.0, 1.0, 1.0])[:pairs],
        label_smoothing=None,
        between=make_between(rows()) if between else None,
        columns={"score_chosen": scores + 5.0, "score_rejected": scores},
        ref_logps=rng.normal(size=(pairs, 2)).astype(np.float32),
        ref_token_logps=(tokens[0], tokens[1]),
    )


def make_between(completions: Ragged) -> Between:
    known, scores = np.full(len(completions), -3.0, np.float32), np.linspace(-1, 1, len(completions))
    return Between(completions, np.array([0, 2, 2, 3, 3, 5, 6]), known, scores)


def make_policy(device: torch.device, dtype: torch.dtype, backend: str, *, shared: bool) -> Policy:
    shape = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    with device:
        policy = Policy(LlamaForCausalLM(shape), dtype)
    policy.run_flat("a test", backend, share_prompts=shared)
    return policy.train()


def steps(policy: Policy, objective: str | dict[str, float], device: torch.device) -> Iterator[None]:
    """Endless optimiser steps of two micro-batches each, as the loop makes them between two log lines."""
    rows, world = np.arange(6)[::-1].copy(), World(0, 1, device)
    config = TrainConfig(
        data=DataConfig(path=""), objective=ObjectiveConfig(name=objective), optim=OptimConfig(max_pairs_per_batch=3)
    )
    loss, metrics, state = PreferenceLoss(config.objective), PreferenceMetrics(device), TrainState()
    optimizer = make_optimizer(policy.trainable_parameters(), config.optim)
    job = Job(config, world, policy, loss, make_pairs(between=loss.mixture.reads(Reads.CANDIDATES)))
    batches = batches_ahead(job, itertools.repeat(rows))
    while True:
        train_step(job, rows, batches, optimizer, state, metrics)
        state.step += 1
        yield


class LikeFused(torch.optim.AdamW):
    """Told by the device whether to step, as fused AdamW is, though it steps in any case."""

    def __init__(self, *args: Any, fused: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._step_supports_amp_scaling = True

    def step(self, closure: Any = None) -> Any:
        assert self.__dict__.pop("found_inf").device.type == "meta"
        return super().step(closure)


@pytest.fixture
def nowhere(monkeypatch) -> Callable[..., Policy]:
    """Makes policies whose tensors have no values; autocast and fused AdamW, which do not know their device,
    are left out."""
    monkeypatch.setattr(torch.optim, "AdamW", LikeFused)
    monkeypatch.setattr(Policy, "autocast", lambda self: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    return lambda backend, shared: make_policy(NOWHERE, torch.float32, backend, shared=shared)


@pytest.mark.slow
def test_the_host_waits_for_no_objective(nowhere) -> None:
    policy, all_at_once = nowhere("varlen", True), dict.fromkeys(OBJECTIVES.keys() - READS_BACK.keys(), 1.0)
    PreferenceLoss(ObjectiveConfig(name=all_at_once)).equip(policy, ModelConfig(), DataConfig(path=""))
    with no_waiting():
        for _ in itertools.islice(steps(policy, all_at_once, NOWHERE), 2):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("objective", [name for name, objective in OBJECTIVES.items() if objective.fused])
def test_the_host_waits_for_no_closed_form(nowhere, objective) -> None:
    policy = nowhere("varlen", False)
    with no_waiting():
        next(steps(policy, objective, NOWHERE))


@pytest.mark.parametrize("objective", READS_BACK)
def test_objectives_that_compute_on_the_host_are_known(nowhere, objective) -> None:
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        next(steps(nowhere("varlen", True), objective, NOWHERE))


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("backend", ["varlen", "sdpa_by_length", "eager_by_length"])
def test_the_host_waits_in_no_flat_layout(nowhere, backend, shared) -> None:
    policy = nowhere(backend, shared)
    with no_waiting():
        next(steps(policy, {"sigmoid": 0.8, "bco": 0.2, "sft": 1.0}, NOWHERE))


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x, index, host: x.sum().item(),
        lambda x, index, host: bool((x > 0).any()),
        lambda x, index, host: x.cpu(),
        lambda x, index, host: x.tolist(),
        lambda x, index, host: x[x > 0],
        lambda x, index, host: (x > 0).nonzero(),
        lambda x, index, host: x.repeat_interleave(index),
        lambda x, index, host: x[host],
        lambda x, index, host: x[host.numpy()],
        lambda x, index, host: host.to(x),
        lambda x, index, host: torch.tensor([1.0, 2.0], device=x.device),
    ],
)
def test_the_watch_sees_what_waits(waiting) -> None:
    x, index, host = torch.ones(3, device=NOWHERE), torch.zeros(3, dtype=torch.int64, device=NOWHERE), torch.arange(2)
    with pytest.raises((Waits, NotImplementedError, RuntimeError)), no_waiting():
        waiting(x, index, host)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA or ROCm device")
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("objective", ["sigmoid", "bco", "aot", "wpo", "ld_dpo", "sft"])
def test_a_gpu_is_not_waited_for(objective, shared) -> None:
    device = torch.device("cuda")
    backend = backends(device, torch.bfloat16)[0]
    making = steps(make_policy(device, torch.bfloat16, backend, shared=shared), objective, device)
    for _ in itertools.islice(making, 2):  # kernels are compiled, and memory is taken
        pass
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in itertools.islice(making, 2):
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")
