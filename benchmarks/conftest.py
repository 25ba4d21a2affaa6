"""What the benchmark files share: one measurement of one variant at one shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import measure
from benchmarks.suite import TOLERANCE, Shape, Suite, Variant, relative_errors

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Measure = Callable[[Suite, Shape, Variant], None]


def cases(suite: Suite) -> list[Any]:
    """Variants times shapes of the device at hand."""
    return [
        pytest.param(shape, variant, id=f"{shape.name}-{variant.key}")
        for shape in suite.shapes(DEVICE.type)
        for variant in suite.variants
    ]


@pytest.fixture
def measure_variant(benchmark: Any) -> Measure:
    """Checks a variant's results against the suite's reference, then times it; skips where its library is absent."""

    def run_one(suite: Suite, shape: Shape, variant: Variant) -> None:
        problem = suite.build(shape, DEVICE, 0)
        try:
            run = variant.prepare(problem)
            results = run()
        except ImportError as error:
            pytest.skip(str(error))
        if not variant.is_floor:
            assert max(relative_errors(results, suite.reference(problem, variant))) <= TOLERANCE[shape.dtype]

        def finished() -> None:
            run()
            measure.synchronise(DEVICE)

        benchmark.group = f"{suite.name} {shape.name} {variant.mode}"
        benchmark.pedantic(finished, rounds=5, warmup_rounds=1)

    return run_one
