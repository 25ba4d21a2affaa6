"""Where the time of a training step goes, from PyTorch's profiler."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity
from transformers import PreTrainedModel

from benchmarks.harness import synchronise
from benchmarks.training.gate import Values

MARK = "part: "
HEAD, ATTENTION, MLP, OTHER_LAYERS = "head", "attention", "MLP", "embedding, norms, residuals"
OPTIMIZER, REST, IDLE = "optimizer", "loss, batches, clipping", "idle or in Python"
PARTS = (ATTENTION, MLP, HEAD, OTHER_LAYERS, OPTIMIZER, REST, IDLE)
WARM_UP_STEPS = 2
BACKWARD = "autograd::engine::evaluate_function"
FORWARD_SCOPE = 0  # of torch's RecordScope
Profile = dict[str, Any]  # `seconds` of one step, and by part (`parts`) what adds up to them; on a GPU, of its kernels


class ProfilingGate:
    """Profiles the one step after those that warm up, then ends the training."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._steps = device, 0
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        self._profiler = torch.profiler.profile(activities=activities)

    def ready(self, model: nn.Module) -> bool:
        mark_parts(model)
        return True

    def step_done(self, values: Values) -> bool:
        self._steps += 1
        if self._steps < WARM_UP_STEPS:
            return True
        synchronise(self._device)
        if self._steps == WARM_UP_STEPS:
            self._profiler.start()
            self._begin = time.perf_counter()
            return True
        self._seconds = time.perf_counter() - self._begin
        self._profiler.stop()
        return False

    def profile(self) -> Profile:
        parts = dict.fromkeys(PARTS, 0.0) | by_part(self._profiler.events(), self._device.type)
        return {"seconds": self._seconds, "parts": parts | {IDLE: max(0.0, self._seconds - sum(parts.values()))}}


def mark_parts(model: nn.Module) -> None:
    """Mark what each part does in the forward pass; whatever is in the model but in no other part is the head's."""
    for module in model.modules():
        part = HEAD if module is model else part_of(module)
        if part is not None:
            _mark(module, part)


def _mark(module: nn.Module, part: str) -> None:
    marks: list[Any] = []
    module.register_forward_pre_hook(lambda *_: marks.append(record_function(MARK + part).__enter__()), prepend=True)
    module.register_forward_hook(lambda *_: marks.pop().__exit__(None, None, None), always_call=True)


def part_of(module: nn.Module) -> str | None:
    """By the names that transformers gives its classes."""
    name = type(module).__name__
    if isinstance(module, PreTrainedModel) and name.endswith("Model"):
        return OTHER_LAYERS
    return ATTENTION if name.endswith("Attention") else MLP if name.endswith("MLP") else None


def by_part(events: Iterable[Any], device_type: str) -> dict[str, float]:
    """Seconds of operators (kernels, on a GPU) by part."""
    seconds: dict[str, float] = {}
    for event, part in parts_of(events):
        busy = sum(kernel.duration for kernel in event.kernels) if device_type == "cuda" else event.self_cpu_time_total
        seconds[part] = seconds.get(part, 0.0) + 1e-6 * busy
    return seconds


def parts_of(events: Iterable[Any]) -> Iterator[tuple[Any, str]]:
    """Each operator and its part; a backward operator belongs where its forward one does."""
    on_host = (event for event in events if event.device_type == torch.autograd.DeviceType.CPU)
    parts: dict[int, str] = {}
    forward: dict[int, str] = {}
    for event in sorted(on_host, key=lambda event: event.time_range.start):
        inside = parts.get(id(event.cpu_parent), REST)
        part = parts[id(event)] = _part(event, inside, forward)
        # Operators without gradient carry the number of the next one with; that one comes last and stays.
        if event.sequence_nr >= 0 and event.scope == FORWARD_SCOPE:
            forward[event.sequence_nr] = part
        if not event.name.startswith((MARK, "Optimizer.", "ProfilerStep")):
            yield event, part


def _part(event: Any, inside: str, forward: dict[int, str]) -> str:
    if event.name.startswith(MARK):
        return event.name.removeprefix(MARK)
    if event.name.startswith("Optimizer.step"):
        return OPTIMIZER
    if event.name.startswith(BACKWARD):
        return forward.get(event.sequence_nr, REST)
    return inside
