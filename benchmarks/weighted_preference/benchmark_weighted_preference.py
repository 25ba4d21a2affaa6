"""`pytest benchmarks/weighted_preference`: the variants of `run.py`, one after the other, by pytest-benchmark."""

from __future__ import annotations

import pytest

from benchmarks.conftest import Measure, cases
from benchmarks.suite import Shape, Variant
from benchmarks.weighted_preference.variants import SUITE


@pytest.mark.parametrize(("shape", "variant"), cases(SUITE))
def test_variant(shape: Shape, variant: Variant, measure_variant: Measure) -> None:
    measure_variant(SUITE, shape, variant)
