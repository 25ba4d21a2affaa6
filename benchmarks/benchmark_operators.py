"""`pytest benchmarks`: the variants of `python -m benchmarks`, one after the other, by pytest-benchmark."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.harness import synchronise
from benchmarks.suite import SUITES, TOLERANCE, Shape, Suite, Variant, relative_errors, suite

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CASES = [
    pytest.param(measured, shape, variant, id=f"{measured.name}-{shape.name}-{variant.key}")
    for measured in map(suite, SUITES)
    for shape in measured.shapes(DEVICE.type)
    for variant in measured.variants
]


@pytest.mark.parametrize(("measured", "shape", "variant"), CASES)
def test_variant(measured: Suite, shape: Shape, variant: Variant, benchmark: Any) -> None:
    """Right first, then timed; left out where its library is absent."""
    problem = measured.build(shape, DEVICE, 0)
    try:
        run = variant.prepare(problem)
        results = run()
    except ImportError as error:
        pytest.skip(str(error))
    if not variant.is_floor:
        assert max(relative_errors(results, measured.reference(problem, variant))) <= TOLERANCE[shape.dtype]

    def finished() -> None:
        run()
        synchronise(DEVICE)

    benchmark.group = f"{measured.name} {shape.name} {variant.mode}"
    benchmark.pedantic(finished, rounds=5, warmup_rounds=1)
