"""Fixtures of the kernel tests: a GPU where there is one, else Triton's interpreter on CPU tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if torch.cuda.is_available():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms ask for
else:
    os.environ["TRITON_INTERPRET"] = "1"

from iwpo_kernels.devices import interpreted_kernels


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA or ROCm device"))


@pytest.fixture(autouse=True)
def nan_in_empty() -> Iterator[None]:
    """`torch.empty` comes filled with NaN, so a value that no kernel wrote cannot pass for a result."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def device() -> Iterator[torch.device]:
    """Where a test of the Triton kernels puts its tensors; operators take the Triton path there."""
    if torch.cuda.is_available():
        yield torch.device("cuda")
    else:
        with interpreted_kernels():
            yield torch.device("cpu")
