"""The GPUs and the CPU, as PyTorch sees them, and what would run on them."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import torch

from iwpo_fast import threads
from iwpo_fast.models.attention.choice import suited, why_absent

GIB = 2**30


def computers() -> list[str]:
    """A line on each GPU, or on why there is none, and one on the CPU."""
    lines = [_gpu(number) for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else [_no_gpu()]
    return [*lines, _cpu()]


def what_would_run(device: torch.device) -> list[str]:
    """A line on each choice that `auto` makes on this device, and why."""
    half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return [
        f"device: {device}",
        f"model.precision: {'bf16' if half else 'fp32'}, {_why_precision(device, half)}",
        _attention(device, torch.bfloat16 if half else torch.float32),
        _operators(device),
        _compiler(device),
        _clusters(),
        _sampling(device),
    ]


def _gpu(number: int) -> str:
    of = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    kind = "ROCm" if torch.version.hip else f"compute capability {of.major}.{of.minor}"
    return (
        f"GPU {number}: {of.name}, {kind}, {of.multi_processor_count} multiprocessors, {total / GIB:.1f} GiB, "
        f"{free / GIB:.1f} free"
    )


def _no_gpu() -> str:
    built = torch.version.cuda or torch.version.hip
    if built is None:
        return "no GPU: this PyTorch was built for CPUs; install one for CUDA or ROCm if there is a GPU"
    return f"no GPU: PyTorch was built for {built} and finds none; look at the driver and CUDA_VISIBLE_DEVICES"


def _cpu() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    number = torch.get_num_threads()
    return (
        f"CPU: {threads.cores()} cores for this process, {torch.backends.cpu.get_cpu_capability()}, {memory:.1f} GiB, "
        f"PyTorch computes with {number} thread{'s' if number > 1 else ''}"
    )


def _why_precision(device: torch.device, half: bool) -> str:
    if device.type == "cpu":
        return "as on every CPU"
    return "which the GPU computes in" if half else "because this GPU has no bfloat16"


def _attention(device: torch.device, dtype: torch.dtype) -> str:
    """Of the backends in their order, the first that is there; whether it suits a model is seen when that is loaded."""
    passed = {name: why_absent(name) for name in suited(device, dtype)}
    first = next(name for name, absent in passed.items() if absent is None)
    before = [f"not {name}: {absent}" for name, absent in passed.items() if absent is not None]
    return f"model.attention: {', '.join([f'{first} first', *before])}"


def _operators(device: torch.device) -> str:
    if device.type == "cpu":
        return "operators: PyTorch's products in blocks, because Triton's kernels run on a GPU"
    if find_spec("triton") is None:
        return "operators: none, because triton is not installed: pip install triton"
    return "operators: Triton's kernels"


def _compiler(device: torch.device) -> str:
    name = os.environ.get("CXX", "g++") if device.type == "cpu" else os.environ.get("CC", "gcc")
    found = shutil.which(name)
    return f"model.compile: {f'possible, with {found}' if found else f'not possible, there is no {name}'}"


def _clusters() -> str:
    from iwpo_fast.rewards.kmeans import NEEDS, available_backends

    first, *_ = available_backends()
    absent = [f"{name} needs {what}" for name, what in NEEDS.items() if name not in available_backends()]
    return f"clusters.backend: {', '.join([first, *absent])}"


def _sampling(device: torch.device) -> str:
    if find_spec("vllm") is None:
        return "candidates.backend: transformers, vllm is not installed"
    return f"candidates.backend: {'vllm' if device.type == 'cuda' else 'transformers, vllm is for GPUs'}"
