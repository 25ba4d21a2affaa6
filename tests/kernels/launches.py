"""Records what Triton would compile for a call, without a GPU and without running any kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from triton.backends.amd.compiler import HIPBackend
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, compile, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from iwpo_kernels import devices, launch
from iwpo_kernels.linear_token_logps import tiling
from iwpo_kernels.linear_token_logps.epilogue import launch as epilogue_launch


@dataclass(frozen=True)
class Target:
    """A GPU to compile for.

    Attributes:
        large: whether tensors exceed 2 GiB, for which AMD's compiler makes other kernels.
    """

    architecture: str
    large: bool = False

    @property
    def is_amd(self) -> bool:
        return self.architecture.startswith("gfx")

    @property
    def gpu(self) -> GPUTarget:
        if self.is_amd:
            return GPUTarget("hip", self.architecture, 64)
        return GPUTarget("cuda", int(self.architecture.removeprefix("sm_")), 32)

    def __str__(self) -> str:
        return self.architecture + (" beyond 2 GiB" if self.large else "")


@dataclass(frozen=True)
class Launch:
    """One compilation of a kernel, as `JITFunction.run` asks for it.

    Attributes:
        signature: type of each argument as Triton spells it, or "constexpr".
        constants: values of the latter, and of integers that Triton found to be 1.
        attributes: divisibility of pointers and integers by 16, and on AMD the range of pointers.
        options: warps and registers.
    """

    kernel: JITFunction[Any]
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], list[list[Any]]]
    options: dict[str, int]

    def __str__(self) -> str:
        """Equal for launches that share a compilation."""
        names = list(self.signature)
        constants = ", ".join(f"{names[path[0]]}={value}" for path, value in self.constants.items())
        arguments = ", ".join(
            f"{name}: {kind}" + "".join(f" {key} {value}" for key, value in self.attributes.get((i,), []))
            for i, (name, kind) in enumerate(self.signature.items())
            if kind != "constexpr"
        )
        return f"{self.kernel.__name__}[{constants}]({arguments}) {self.options}"

    def compiled(self, target: Target) -> CompiledKernel:
        source = ASTSource(self.kernel, self.signature, self.constants, self.attributes)
        return compile(source, target=target.gpu, options=self.options)


def launches(calls: Iterable[Callable[[], Any]], target: Target) -> list[Launch]:
    """What the calls, on CPU tensors, would launch on the target, each compilation once.

    Kernels write nothing, so the calls compute rubbish. The process must not interpret kernels.
    """
    backend = make_backend(target.gpu)
    found: dict[str, Launch] = {}

    @functools.cache
    def binder(kernel: JITFunction[Any]) -> Callable[..., Any]:
        return create_function_from_signature(kernel.signature, kernel.params, backend)

    def record(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        bound, specialization, options = binder(kernel)(*args, **keywords)
        _, signature, constants, attributes = kernel._pack_args(backend, keywords, bound, specialization, options)
        asked = Launch(kernel, signature, constants, attributes, options)
        found.setdefault(str(asked), asked)

    with ExitStack() as patches:
        patches.enter_context(patch.object(JITFunction, "run", record))
        patches.enter_context(patch.object(devices, "_interpreting", True))
        patches.enter_context(patch.object(tiling, "WIDEST_SLICE", tiling.ALIGNMENT))  # so that small heads have slices
        patches.enter_context(patch.object(tiling, "_fastest", tiling._fastest.__wrapped__))
        patches.enter_context(patch.object(launch, "limits_registers", lambda: not target.is_amd))
        patches.enter_context(patch.object(epilogue_launch, "architecture", lambda device: target.architecture))
        if target.large:
            patches.enter_context(patch.object(HIPBackend, "is_within_2gb", lambda tensor: False))
        for call in calls:
            call()
    return list(found.values())
