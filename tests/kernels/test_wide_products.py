"""Products of 16-bit matrices with float32 results: what a device has is found out once, and every way is right."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from iwpo_kernels import wide_products
from iwpo_kernels.devices import computing_on
from iwpo_kernels.wide_products import addmm_fp32, mm_fp32

CPU = torch.device("cpu")
UNRELATED = (
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)
MISSING = NotImplementedError("Could not run 'aten::mm.dtype'")


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    wide_products._adds_in_place.cache_clear()
    yield
    wide_products._adds_in_place.cache_clear()


class Device:
    """A CPU that passes for a GPU with the wide products that it is told to have.

    Attributes:
        calls: names of those that were asked for.
        errors: what the next of them raise, or None.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *has: str, rounds: tuple[str, ...] = ()) -> None:
        self.has, self.rounds = has, rounds
        self.calls: list[str] = []
        self.errors: list[Exception | None] = []
        monkeypatch.setattr(wide_products, "has_wide_kernels", lambda device: True)
        for name in ("mm", "addmm", "baddbmm"):
            monkeypatch.setattr(torch, name, self.wide(name, getattr(torch, name)))

    def wide(self, name: str, exact: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def product(*inputs: Tensor, out_dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
            if out_dtype is None:
                return exact(*inputs, out=out)
            self.calls.append(name)
            if self.errors and (error := self.errors.pop(0)) is not None:
                raise error
            if name not in self.has:
                raise MISSING
            if name in self.rounds:
                inputs = (inputs[0].bfloat16(), *inputs[1:])
            result = exact(*(tensor.to(out_dtype) for tensor in inputs))
            return result if out is None else out.copy_(result)

        return product


def matrices() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A start in float32, two bfloat16 factors, and start plus product in float64."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 7, generator=generator)
    a, b = (torch.randn(*shape, generator=generator).bfloat16() for shape in ((5, 16), (16, 7)))
    return start, a, b, start.double() + a.double() @ b.double()


WAYS = {
    "in place": (("mm", "addmm", "baddbmm"), (), "addmm"),
    "batched, as the plain one is missing": (("mm", "baddbmm"), (), "baddbmm"),
    "batched, as the plain one rounds": (("mm", "addmm", "baddbmm"), ("addmm",), "baddbmm"),
    "apart": (("mm",), (), "mm"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_product_is_added_in_the_best_way_that_is_right(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    has, rounds, last = WAYS[way]
    device = Device(monkeypatch, *has, rounds=rounds)
    total, a, b, truth = matrices()
    addmm_fp32(total, a, b)
    assert device.calls[-1] == last
    torch.testing.assert_close(total.double(), truth, rtol=1e-6, atol=1e-6)
    asked = len(device.calls)
    addmm_fp32(total, a, b)
    assert device.calls[asked:] == [last]  # the rest is remembered


@pytest.mark.parametrize("into", [True, False])
@pytest.mark.parametrize("has", [("mm",), ()])
def test_a_product_is_wide_or_of_wide_inputs(monkeypatch: pytest.MonkeyPatch, has: tuple[str, ...], into: bool) -> None:
    Device(monkeypatch, *has)
    start, a, b, truth = matrices()
    out = torch.empty(5, 9)[:, :7] if into else None
    product = mm_fp32(a, b, out=out)
    assert product.dtype == torch.float32 and (out is None or product.data_ptr() == out.data_ptr())
    torch.testing.assert_close(product.double(), truth - start, rtol=1e-6, atol=1e-6)


def test_a_device_without_wide_products_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Device(monkeypatch)
    start, a, b, _ = matrices()
    for _ in range(2):
        mm_fp32(a, b)
        addmm_fp32(start, a, b)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "ten times as long" in caplog.text and "aten::mm.dtype" in caplog.text


def test_float32_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    total, a, b, truth = matrices()
    addmm_fp32(total, a.float(), b.float())
    mm_fp32(a.float(), b.float())
    assert device.calls == []
    torch.testing.assert_close(total.double(), truth, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("error", UNRELATED)
@pytest.mark.parametrize("after", [0, 1])
def test_an_error_of_another_kind_is_no_answer(monkeypatch: pytest.MonkeyPatch, error: Exception, after: int) -> None:
    device = Device(monkeypatch, "mm", "addmm", "baddbmm")
    device.errors = [None] * after + [error]
    with pytest.raises(RuntimeError, match=r"out of memory|ALLOC_FAILED|illegal memory"):
        wide_products._adds_in_place(CPU, torch.bfloat16)
    assert wide_products._adds_in_place(CPU, torch.bfloat16) is wide_products._addmm


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("short_sums", [True, False])
def test_a_gpu_has_them_whatever_the_process_allows(dtype: torch.dtype, short_sums: bool) -> None:
    switches = torch.backends.cuda.matmul
    shipped, switches.allow_fp16_accumulation = switches.allow_fp16_accumulation, short_sums
    device = torch.device("cuda", torch.cuda.current_device())
    try:
        with computing_on(device):
            assert wide_products._adds_in_place(device, dtype) in (wide_products._addmm, wide_products._baddbmm)
    finally:
        switches.allow_fp16_accumulation = shipped
