"""Fixtures of the kernel tests: a GPU where there is one, else Triton's interpreter on CPU tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from interpreted import is_interpreted, is_quick
from torch.torch_version import TorchVersion

if torch.cuda.is_available():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms ask for
else:
    os.environ["TRITON_INTERPRET"] = "1"

import triton

from iwpo_kernels.devices import interpreted_kernels


def pytest_configure(config: pytest.Config) -> None:
    # The interpreter computes masked lanes and numpy comments on them.
    for module in ("triton.runtime.interpreter", "numpy"):
        config.addinivalue_line("filterwarnings", f"ignore::RuntimeWarning:{module}")


@pytest.hookimpl(tryfirst=True)  # before the marks are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA or ROCm device"))
        elif is_interpreted(item) and not is_quick(item):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def nan_in_empty() -> Iterator[None]:
    """`torch.empty` comes filled with NaN, so a value that no kernel wrote cannot pass for a result."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def no_help_to_repeat(nan_in_empty: None) -> None:
    """PyTorch chooses its algorithms as it does for users, so that no setting hides a race."""
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def bfloat16_rounds_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter truncates float32 to bfloat16, where GPUs round to the nearest."""
    if torch.cuda.is_available():
        return
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounding_convert(values: np.ndarray, source: tl.dtype, target: tl.dtype, rounding: object) -> np.ndarray:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(values, source, target, rounding)
        rounded = torch.from_numpy(np.ascontiguousarray(values)).bfloat16()
        return rounded.view(torch.int16).numpy().view(np.uint16)

    monkeypatch.setattr(interpreter, "_convert_float", rounding_convert)


@pytest.fixture(autouse=True)
def a_launch_patches_the_language_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter replaces all of `tl` at each call of a device function, which is half of its time.

    What the launch has replaced in the modules that a function sees is not replaced again, until the launch ends.
    """
    if torch.cuda.is_available():
        return
    import triton.language as tl
    from triton.runtime import interpreter

    patch_lang, replaced = interpreter._patch_lang, set()

    def patch_once(function: Callable[..., Any]) -> Any:
        modules = frozenset(
            module.__name__ for module in function.__globals__.values() if module is tl or module is tl.core
        )
        if modules in replaced:
            return interpreter._LangPatchScope()
        scope = patch_lang(function)
        if not replaced:  # the launch itself, which alone restores what it has replaced
            restore = scope.restore
            scope.restore = lambda: (replaced.clear(), restore())
        replaced.add(modules)
        return scope

    monkeypatch.setattr(interpreter, "_patch_lang", patch_once)


@pytest.fixture
def device() -> Iterator[torch.device]:
    """Where a test of the Triton kernels puts its tensors; operators take the Triton path there."""
    if torch.cuda.is_available():
        yield torch.device("cuda")
    elif TorchVersion(triton.__version__) < (3, 7) and TorchVersion(np.__version__) >= (2, 4):
        pytest.skip(f"the interpreter of Triton {triton.__version__} does not run on NumPy {np.__version__}")
    else:
        with interpreted_kernels():
            yield torch.device("cpu")
