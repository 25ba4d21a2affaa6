"""Every kernel users can launch compiles without a GPU, fits its target and spills nothing."""

from __future__ import annotations

import pytest
from ahead_of_time import SHARED_MEMORY_LIMIT, Report, Usage, compile_all

pytestmark = pytest.mark.slow

EPILOGUE = {"product_kernel", "seed_kernel", "settle_kernel"}
"""Not held to wide accesses: the first goes through descriptors, the others read one number a row."""

NARROW = {
    "slice_kernel": (16, "masses of earlier blocks are scaled where a row outgrows its reference, which few rows do"),
    "finish_kernel": (8, "the label's row of a head that may begin anywhere, once a token"),
}
"""Accesses of two bytes beyond the label's own, with the reason."""

NO_WIDE_LOADS = {
    "finish_kernel": "Triton 3.6 lays its block out for the head, which may begin anywhere; half a per cent of a pass",
    "weighted_preference": "sequences begin and end at any token",
}
"""Beginnings of launches that read no row of known alignment."""


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


def test_rows_that_are_aligned_are_read_and_written_wide(usages: list[Usage]) -> None:
    aligned = [usage for usage in usages if usage.aligned]
    assert {usage.kernel for usage in aligned} == {usage.kernel for usage in usages} - EPILOGUE
    assert [usage for usage in aligned if usage.narrow > 1 + NARROW.get(usage.kernel, (0, ""))[0]] == []
    exempt = tuple(NO_WIDE_LOADS)
    assert [usage for usage in aligned if not usage.wide and not usage.launch.startswith(exempt)] == []
    unaligned = [usage for usage in usages if usage.architecture == "sm_90" and not usage.aligned]
    assert any(usage.narrow > 16 for usage in unaligned), "the count sees narrow accesses where there are some"


def test_products_of_16_bits_use_warpgroups_on_hopper(usages: list[Usage]) -> None:
    products = [usage for usage in usages if usage.kernel == "product_kernel" and usage.architecture == "sm_90"]
    assert {"bf16", "fp16"} <= {usage.launch.split("x: tensordesc<")[-1][:4] for usage in products}
    assert all(usage.warpgroups == ("tensordesc" in usage.launch) for usage in products)
