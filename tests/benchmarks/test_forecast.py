"""What a plan says of memory on a CPU, beside the peak of a process that trains a small model."""

from __future__ import annotations

import os

import pytest
import torch

from benchmarks import forecast

NO_PEAKS = not os.access("/proc/self/clear_refs", os.W_OK)


@pytest.mark.slow
@pytest.mark.skipif(NO_PEAKS, reason="the system keeps no peak of a process that can be set back")
@pytest.mark.parametrize("case", ["all weights", "LoRA"])
def test_the_memory_that_a_plan_forecasts_is_within_a_quarter_of_the_peak(case: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("the peak of a process that may load a GPU's libraries is not that of its training")
    row = forecast.in_a_process("small", case, 16384)
    assert row["forecast"] == pytest.approx(row["peak"], rel=0.25)


def test_the_parts_of_a_forecast_are_read_from_the_line_of_the_plan() -> None:
    assert forecast.in_bytes("513 MiB") == 513 << 20
    assert forecast.in_bytes("1.5 GiB") == 1536 << 20
