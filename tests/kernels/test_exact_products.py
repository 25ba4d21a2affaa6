"""Operators multiply exactly whatever the process allows, and leave its settings as they were."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from forked import HANG
from linear_cases import random_case

from iwpo_kernels.devices import computing_on
from iwpo_kernels.exact_products import SHORT_PARTS, _sums, exact_products
from iwpo_kernels.linear_token_logps import cpu, linear_token_logps

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
SETTINGS = [("generic", "all"), ("cuda", "all"), ("cuda", "matmul"), ("mkldnn", "all"), ("mkldnn", "matmul")]
get, put = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter


@pytest.fixture(autouse=True)
def settings_as_shipped() -> Iterator[None]:
    def reset() -> None:
        torch.set_float32_matmul_precision("highest")
        for setting in SETTINGS:
            put(*setting, "none")

    reset()
    yield
    reset()


def effective() -> list[str]:
    return [get(*setting) for setting in SETTINGS]


def legacy_allow_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True


def new_on_top_of_legacy() -> None:
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.matmul.fp32_precision = "tf32"


def one_operation_on_top_of_all() -> None:
    torch.backends.fp32_precision = "ieee"
    torch.backends.cuda.matmul.fp32_precision = "tf32"


WAYS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "highest": lambda: torch.set_float32_matmul_precision("highest"),
    "allow_tf32": legacy_allow_tf32,
    "TF32 everywhere": lambda: put("generic", "all", "tf32"),
    "bfloat16 on a CPU": lambda: put("mkldnn", "all", "bf16"),
    "both APIs": new_on_top_of_legacy,
    "one operation": one_operation_on_top_of_all,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("device", "backend"), [(CUDA, "cuda"), (CPU, "mkldnn")])
def test_products_are_exact_inside_and_settings_are_restored(device: torch.device, backend: str, way: str) -> None:
    WAYS[way]()
    before = effective()
    for _ in range(2):
        with exact_products(device):
            assert get(backend, "matmul") == "ieee"
        assert effective() == before
    with pytest.raises(ZeroDivisionError), exact_products(device):
        _ = 1 / 0
    assert effective() == before


@pytest.mark.parametrize("way", ["high", "medium", "allow_tf32"])
def test_the_legacy_settings_can_be_read_afterwards(way: str) -> None:
    WAYS[way]()
    before = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32
    with exact_products(CUDA), exact_products(CPU):
        pass
    assert (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32) == before


@pytest.fixture
def sums_as_shipped() -> Iterator[None]:
    shipped = _sums(torch.backends.cuda.matmul, CUDA)
    yield
    for name, value in shipped.items():
        setattr(torch.backends.cuda.matmul, name, value)


@pytest.mark.usefixtures("sums_as_shipped")
@pytest.mark.parametrize(("allowed", "splits"), [(True, True), (False, True), (False, False)])
def test_sums_of_16_bits_are_switched_off_inside(allowed: bool, splits: bool) -> None:
    """`allow_fp16_accumulation` makes PyTorch refuse products of float16 with float32 results."""
    switches = torch.backends.cuda.matmul
    switches.allow_fp16_accumulation = allowed
    for name in SHORT_PARTS:
        setattr(switches, name, (allowed, splits))
    before = _sums(switches, CUDA)
    inside = {name: (False, splits) if name in SHORT_PARTS else False for name in before}
    with exact_products(CPU):
        assert _sums(switches, CUDA) == before
    with exact_products(CUDA):
        assert _sums(switches, CUDA) == inside
        with exact_products(CUDA):
            pass
        assert _sums(switches, CUDA) == inside
    assert _sums(switches, CUDA) == before


def test_an_inherited_setting_stays_inherited() -> None:
    put("generic", "all", "tf32")
    with exact_products(CUDA), exact_products(CPU):
        assert get("cuda", "matmul") == get("mkldnn", "matmul") == "ieee"
    put("generic", "all", "ieee")
    assert get("cuda", "matmul") == get("mkldnn", "matmul") == "ieee"


def test_threads_that_overlap_restore_once_all_have_left() -> None:
    torch.set_float32_matmul_precision("high")
    entered, may_leave, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with exact_products(CUDA):
            entered.set()
            may_leave.wait(HANG)
            seen.append(get("cuda", "matmul"))

    with exact_products(CUDA):
        thread = threading.Thread(target=other)
        thread.start()
        assert entered.wait(HANG)
    assert get("cuda", "matmul") == "ieee"
    may_leave.set()
    thread.join()
    assert seen == ["ieee"] and get("cuda", "matmul") == "tf32"


@pytest.mark.slow
def test_operators_compute_so_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_float32_matmul_precision("medium")
    seen = []
    for name in ("forward", "head_gradient", "hidden_gradient"):
        inner = getattr(cpu, name)

        def spy(*args: object, inner: Callable[..., None] = inner, name: str = name) -> None:
            seen.append((name, get("mkldnn", "matmul")))
            inner(*args)

        monkeypatch.setattr(cpu, name, spy)
    case = random_case()
    leaves = [case.hidden.requires_grad_(), case.weight.requires_grad_()]
    compiled = torch.compile(linear_token_logps, fullgraph=True, backend="aot_eager")
    for operator in (linear_token_logps, compiled):
        seen.clear()
        torch.autograd.grad(operator(*leaves, case.labels).sum(), leaves)
        assert seen == [(name, "ieee") for name in ("forward", "head_gradient", "hidden_gradient")]
    with computing_on(CPU):
        assert get("mkldnn", "matmul") == "ieee"
    assert get("mkldnn", "matmul") == "bf16"


@pytest.mark.gpu
def test_tf32_does_not_reach_the_log_probs() -> None:
    case = random_case(tokens=64, features=512, vocab=1000)
    tensors = [tensor.cuda() for tensor in (case.hidden, case.weight, case.labels)]
    exact = linear_token_logps(*tensors)
    torch.set_float32_matmul_precision("high")
    assert torch.equal(linear_token_logps(*tensors), exact)
