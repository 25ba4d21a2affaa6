"""What is found out about a device is remembered, and a failure that says nothing about it is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from iwpo_kernels import devices

CPU = torch.device("cpu")
OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    devices._has_wide_output.cache_clear()
    yield
    devices._has_wide_output.cache_clear()


def answering(monkeypatch: pytest.MonkeyPatch, *answers: Exception | None) -> None:
    """Products with another dtype raise these errors, or succeed, one after the other."""
    left = list(answers)

    def mm(a: Tensor, b: Tensor, out_dtype: torch.dtype) -> Tensor:
        if (answer := left.pop(0)) is not None:
            raise answer
        return a.to(out_dtype) @ b.to(out_dtype)

    monkeypatch.setattr(torch, "mm", mm)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_want_of_memory_is_no_answer(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    answering(monkeypatch, error, None)
    with pytest.raises(RuntimeError, match=r"out of memory|ALLOC_FAILED"):
        devices._has_wide_output(CPU, torch.bfloat16)
    assert devices._has_wide_output(CPU, torch.bfloat16)
    assert devices._has_wide_output(CPU, torch.bfloat16)  # remembered, as there are no more answers


def test_a_product_that_the_device_lacks_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, NotImplementedError("Could not run 'aten::mm.dtype'"))
    assert not devices._has_wide_output(CPU, torch.bfloat16)
    assert not devices._has_wide_output(CPU, torch.bfloat16)
