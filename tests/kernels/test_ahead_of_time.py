"""Every kernel users can launch compiles without a GPU, fits its target and spills nothing."""

from __future__ import annotations

import pytest
from ahead_of_time import SHARED_MEMORY_LIMIT, Usage, all_variants, compile_all


@pytest.fixture(scope="module")
def usages() -> list[Usage]:
    return compile_all()


def test_every_variant_compiles_for_every_target(usages: list[Usage]) -> None:
    expected = {(str(variant), target) for variant in all_variants() for target in SHARED_MEMORY_LIMIT}
    assert expected
    assert {(usage.variant, usage.target) for usage in usages} == expected


def test_no_variant_spills_registers(usages: list[Usage]) -> None:
    assert [usage for usage in usages if usage.spills] == []
    assert all(usage.registers > 0 for usage in usages)


def test_shared_memory_fits_the_target(usages: list[Usage]) -> None:
    assert [usage for usage in usages if usage.shared > SHARED_MEMORY_LIMIT[usage.target]] == []
