"""Every kernel users can launch compiles without a GPU, fits its target and spills nothing."""

from __future__ import annotations

import pytest
from ahead_of_time import SHARED_MEMORY_LIMIT, Report, Usage, compile_all


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    return compile_all()


@pytest.fixture(scope="module")
def usages(reports: list[Report]) -> list[Usage]:
    return [usage for report in reports for usage in report.usages]


def test_every_kernel_compiles_for_every_target(reports: list[Report], usages: list[Usage]) -> None:
    expected = {(kernel, target) for kernel in reports[0].kernels for target in SHARED_MEMORY_LIMIT}
    assert expected
    assert {(usage.kernel, usage.architecture) for usage in usages} == expected


def test_random_calls_launch_nothing_that_is_not_compiled_here(reports: list[Report]) -> None:
    assert [launch for report in reports for launch in report.unforeseen] == []


def test_launches_carry_the_hints_and_limits_that_triton_gives_them(usages: list[Usage]) -> None:
    slices = [usage for usage in usages if usage.kernel == "slice_kernel"]
    for usage in slices:
        is_amd = usage.architecture.startswith("gfx")
        assert (
            "z_ptr: *fp32 tt.divisibility 16" in usage.launch and "mass_stride: i32 tt.divisibility 16" in usage.launch
        )
        assert ("'maxnreg': 128" in usage.launch) != is_amd
        assert is_amd or "tt.pointer_range" not in usage.launch
    for columns in ("columns: i32,", "columns: i32 tt.divisibility 16,"):
        for pointer in ("tt.divisibility 16,", "tt.divisibility 16 tt.pointer_range 32,"):
            wanted = f"z_ptr: *fp32 {pointer}"
            assert any(wanted in usage.launch and columns in usage.launch for usage in slices), (pointer, columns)


def test_no_launch_spills_registers(usages: list[Usage]) -> None:
    assert [usage for usage in usages if usage.spills] == []
    assert all(usage.registers > 0 for usage in usages)


def test_shared_memory_fits_the_target(usages: list[Usage]) -> None:
    assert [usage for usage in usages if usage.shared > SHARED_MEMORY_LIMIT[usage.architecture]] == []


def test_no_kernel_is_atomic(usages: list[Usage]) -> None:
    """As the order of atomic additions changes from run to run."""
    assert [usage for usage in usages if usage.atomics] == []


def test_products_of_16_bits_use_warpgroups_on_hopper(usages: list[Usage]) -> None:
    products = [usage for usage in usages if usage.kernel == "product_kernel" and usage.architecture == "sm_90"]
    assert {"bf16", "fp16"} <= {usage.launch.split("x: tensordesc<")[-1][:4] for usage in products}
    assert all(usage.warpgroups == ("tensordesc" in usage.launch) for usage in products)
