"""Which backends a run can use, by device, type and what is installed."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from iwpo_fast.models.attention import BACKENDS, backends, check_backend, why_absent
from iwpo_fast.models.attention.choice import suited
from iwpo_fast.models.attention.metadata import BY_LENGTH

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def on(monkeypatch: pytest.MonkeyPatch, capability: int, name: str = "NVIDIA GPU", hip: str | None = None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.version, "hip", hip)


def test_a_hopper_gpu_in_half_precision_suits_all_the_fastest_first(monkeypatch) -> None:
    on(monkeypatch, 9)
    expected = ["flash_attn_3", "flash_attn_2", "varlen", "sdpa_by_length", "eager_by_length"]
    assert suited(GPU, torch.bfloat16) == suited(GPU, torch.float16) == list(BACKENDS) == expected


@pytest.mark.parametrize(("capability", "hip"), [(8, None), (10, None), (9, "6.4")])
def test_version_3_is_for_hopper_alone(monkeypatch, capability, hip) -> None:
    on(monkeypatch, capability, hip=hip)
    assert suited(GPU, torch.bfloat16) == ["flash_attn_2", "varlen", "sdpa_by_length", "eager_by_length"]


@pytest.mark.parametrize(("device", "dtype"), [(CPU, torch.float32), (CPU, torch.bfloat16), (GPU, torch.float32)])
def test_cpus_and_float32_take_rectangles(device, dtype) -> None:
    assert tuple(suited(device, dtype)) == tuple(backends(device, dtype)) == BY_LENGTH


def broken() -> ModuleType:
    module = ModuleType("flash_attn")
    module.__getattr__ = lambda name: (_ for _ in ()).throw(ImportError("undefined symbol: _ZN3c10\nmore"))
    return module


def older() -> ModuleType:
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = lambda q, k, v, window_size=(-1, -1): None
    return module


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (None, "flash_attn is not installed"),
        (broken(), "flash_attn cannot be imported (undefined symbol: _ZN3c10)"),
        (ModuleType("flash_attn"), "flash_attn cannot be imported (module 'flash_attn' has no attribute "
                                   "'flash_attn_varlen_func')"),
        (older(), "flash_attn is older than 2.6"),
    ],
    ids=["absent", "broken", "empty", "old"],
)  # fmt: skip
def test_a_flash_attn_that_cannot_be_used_is_passed_over_with_the_reason(monkeypatch, module, reason) -> None:
    on(monkeypatch, 8)
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    assert why_absent("flash_attn_2") == reason
    assert backends(GPU, torch.bfloat16)[0] == "varlen"
    with pytest.raises(ValueError) as error:
        check_backend("flash_attn_2", GPU, torch.bfloat16)
    assert str(error.value) == f"model.attention is flash_attn_2 but {reason}: install it, or set auto."


def test_a_backend_for_other_machines_is_refused(monkeypatch) -> None:
    on(monkeypatch, 8, name="NVIDIA A100")
    with pytest.raises(ValueError, match=r"^model.attention is varlen, which is made for half precision on CUDA and "
                       r"ROCm GPUs, but this run computes in float32 on cpu: set auto, or one of sdpa_by_length, "
                       r"eager_by_length\.$"):  # fmt: skip
        check_backend("varlen", CPU, torch.float32)
    with pytest.raises(ValueError, match=r"flash_attn_3, .* GPUs of the Hopper generation, .* bfloat16 on NVIDIA A100"):
        check_backend("flash_attn_3", GPU, torch.bfloat16)
    for name in BY_LENGTH:
        check_backend(name, CPU, torch.float32)
        check_backend(name, GPU, torch.bfloat16)
